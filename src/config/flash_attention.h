// How attention in bf16 cuts its work on the CPU. Written once, for those who compute (src/nn) and
// those who foretell what it takes (src/memory).
#pragma once

#include <cstdint>

#include "base/bytes.h"

namespace steadyflux {

constexpr std::int64_t kFlashQueries = 64;  // of a head, at once,
constexpr std::int64_t kFlashKeys = 512;    // with so many of its keys
constexpr std::int64_t kFlashPad = 32;      // keys of a block are padded to a multiple of this

inline std::int64_t flash_padded(std::int64_t keys) { return rounded_up(keys, kFlashPad); }

// Bytes of a thread that has a head of its own (with fewer heads than threads these share one):
// packed keys and values; of a block of queries scores and sums in fp32, probabilities in bf16.
inline std::int64_t flash_attention_bytes(std::int64_t keys, std::int64_t head_dim) {
  return 4 * flash_padded(keys) * head_dim + kFlashQueries * (6 * kFlashKeys + 4 * head_dim);
}

}  // namespace steadyflux
