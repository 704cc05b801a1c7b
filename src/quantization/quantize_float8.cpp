// e4m3fn: the one packing whose scale a whole tensor shares, so it needs no search.
#include <algorithm>
#include <bit>
#include <cmath>

#include "quantization/quantize.h"

namespace steadyflux {
namespace {

constexpr float kLargest = 448;

// Rounds to nearest even by adding a number whose last bit is worth what the code's last bit is.
std::uint8_t nearest_float8(float value) {
  const std::uint8_t sign = std::signbit(value) ? 0x80 : 0;
  if (std::isnan(value)) return sign | 0x7f;
  const float magnitude = std::min(std::fabs(value), kLargest);
  if (magnitude < 0x1p-6f) {  // denormals: multiples of 2^-9; 8 of them are the first normal code
    return sign | static_cast<std::uint8_t>(std::nearbyint(magnitude * 0x1p9f));
  }
  const auto bits = std::bit_cast<std::uint32_t>(magnitude);
  const std::uint32_t rounded = (bits + 0x7ffffu + ((bits >> 20) & 1u)) >> 20;
  return sign | static_cast<std::uint8_t>(rounded - (120u << 3));
}

}  // namespace

float float8_e4m3_scale(const float* values, std::int64_t count) {
  float largest = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const float magnitude = std::fabs(values[i]);
    if (std::isfinite(magnitude)) largest = std::max(largest, magnitude);
  }
  return largest > 0 ? largest / kLargest : 1;
}

void quantize_float8_e4m3(const float* values, std::int64_t count, float scale, std::byte* to) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = std::byte{nearest_float8(values[i] / scale)};
}

}  // namespace steadyflux
