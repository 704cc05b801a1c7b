// How products in 16 bits are made in fp32 where the processor cannot multiply 16-bit numbers.
// Written once, for those who compute (src/nn) and those who foretell what it takes (src/memory).
#pragma once

#include <algorithm>
#include <cstdint>

namespace steadyflux {

constexpr std::int64_t kWidenedBytes = std::int64_t{32} << 20;  // of weights or heads, at once
constexpr std::int64_t kWidenedOutputs = 2048;                  // of a Linear, at most at once

// Rows of a weight [out, in] that are multiplied with at once. They depend on the weight alone.
inline std::int64_t widened_outputs(std::int64_t in_features) {
  const auto rows = kWidenedBytes / (4 * std::max<std::int64_t>(in_features, 1));
  return std::clamp<std::int64_t>(rows / 64 * 64, 64, kWidenedOutputs);
}

// Bytes beside x [rows, in] and the result: x, weights and outputs in fp32.
inline std::int64_t widened_linear_bytes(std::int64_t rows, std::int64_t in_features) {
  const auto outputs = widened_outputs(in_features);
  return 4 * (rows * in_features + outputs * in_features + rows * outputs);
}

// Heads of an attention over q [queries, head_dim], k and v [keys, head_dim] that are attended
// together.
inline std::int64_t widened_heads(std::int64_t heads, std::int64_t queries, std::int64_t keys,
                                  std::int64_t head_dim) {
  const auto head = std::max<std::int64_t>(8 * (queries + keys) * head_dim, 1);
  return std::clamp<std::int64_t>(kWidenedBytes / head, 1, heads);
}

inline std::int64_t widened_attention_bytes(std::int64_t heads, std::int64_t queries,
                                            std::int64_t keys, std::int64_t head_dim) {
  return widened_heads(heads, queries, keys, head_dim) * 8 * (queries + keys) * head_dim;
}

}  // namespace steadyflux
