// The 16-bit floats, one value at a time and in integer arithmetic, so that a thread that flushes
// denormals to zero (FTZ, DAZ) gets the same values. Loops over these are vectorised by compilers.
#pragma once

#include <bit>
#include <cstdint>

#include "quantization/inline.h"

namespace steadyflux {

// Values of the integers 0..1023 do not depend on DAZ, those of denormal bit patterns do.
STEADYFLUX_INLINE float half_to_float(std::uint16_t bits) {
  const std::uint32_t magnitude = bits & 0x7fffu;
  const std::uint32_t sign = (bits & 0x8000u) << 16;
  // What exponent 0 means, then all others; 31 is infinity and NaN, whose exponent stays the
  // largest.
  const auto tiny = std::bit_cast<std::uint32_t>(static_cast<float>(magnitude) * 0x1p-24f);
  const std::uint32_t normal = (magnitude << 13) + (magnitude < 0x7c00 ? 112u << 23 : 224u << 23);
  return std::bit_cast<float>(sign | (magnitude < 0x400 ? tiny : normal));
}

// Rounds to nearest even; NaN stays NaN.
STEADYFLUX_INLINE std::uint16_t float_to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return static_cast<std::uint16_t>(is_nan ? (bits >> 16) | 0x40u : rounded);
}

// Rounds to nearest even; what is too large becomes infinity, NaN stays NaN.
STEADYFLUX_INLINE std::uint16_t float_to_half(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  // Adding 0.5 leaves the multiple of 2^-24 in the low bits, rounded by the addition.
  const auto small = std::bit_cast<float>(magnitude < 0x38800000u ? magnitude : 0u);
  const std::uint32_t tiny = std::bit_cast<std::uint32_t>(small + 0.5f) - 0x3f000000u;
  const std::uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  std::uint32_t result = magnitude < 0x38800000u ? tiny : normal;
  if (magnitude >= 0x477ff000u) result = 0x7c00u;  // 65520 and more
  if (magnitude > 0x7f800000u) result = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  return static_cast<std::uint16_t>(sign | result);
}

}  // namespace steadyflux
