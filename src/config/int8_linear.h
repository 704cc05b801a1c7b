// How linear layers in 8-bit integers cut their work on the CPU. Written once, for those who
// compute (src/nn) and those who foretell what it takes (src/memory).
#pragma once

#include <algorithm>
#include <cstdint>

#include "config/widened.h"

namespace steadyflux {

constexpr std::int64_t kInt8Outputs = 64;   // of a weight, that a thread packs as one panel
constexpr std::int64_t kInt8Panels = 4;     // that it holds at once
constexpr std::int64_t kInt8Rows = 128;     // of x, that it multiplies them with at once,
constexpr std::int64_t kInt8Inputs = 2048;  // so many of their values at a time
constexpr std::int64_t kInt8RowGap = 64;    // bytes between rows of x in 8 bits

// Four values are multiplied and added up in one go, and a sum of so many fits into 32 bits.
constexpr std::int64_t kInt8Group = 4;
constexpr std::int64_t kMostInt8Inputs = 32768;

inline bool fits_int8_linear(std::int64_t in_features) {
  return in_features > 0 && in_features % kInt8Group == 0 && in_features <= kMostInt8Inputs;
}

// Bytes beside x [rows, in] and the result: x in 8 bits; for each thread packed weights and sums.
inline std::int64_t int8_linear_bytes(std::int64_t rows, std::int64_t in_features, int threads) {
  const auto of_a_thread = kInt8Panels * kInt8Outputs * (in_features + 4 * rows);
  return rows * (in_features + kInt8RowGap + 8) + std::max(threads, 1) * of_a_thread;
}

// The same on a device, where outputs are made widened_outputs(in) at a time: x in 8 bits, and in
// fp32 before; then a part of the weight in fp32 and in 8 bits; then `sum_bytes` for each output.
inline std::int64_t eight_bit_device_bytes(std::int64_t rows, std::int64_t in_features,
                                           std::int64_t out_features, std::int64_t sum_bytes) {
  const auto outputs = std::min(widened_outputs(in_features), out_features);
  const auto part = outputs * in_features;
  return rows * in_features +
         std::max({4 * rows * in_features, 5 * part, part + sum_bytes * rows * outputs});
}

}  // namespace steadyflux
