// Formats whose scales lie apart from the codes: for each the one function that gives the values of
// `count` codes (a multiple of 64) with one scale, by the fp32 operations of PyTorch and
// bitsandbytes in their order.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "quantization/inline.h"

namespace steadyflux {

// Codes that a step of the loops over them takes.
inline constexpr int kCodeStep = 64;

// 4 bits of exponent, 3 of mantissa. Shifted into an fp16 number it is 2^-8 times what it means,
// denormals too; the largest magnitude is NaN.
struct Float8E4M3 {
  static constexpr int kCodesPerByte = 1;
  float factor;
  template <typename Isa, typename Out>
  STEADYFLUX_INLINE void operator()(const std::uint8_t* codes, float scale, Out* to) const {
    alignas(64) std::array<std::uint16_t, kCodeStep> halves;
    for (int i = 0; i < kCodeStep; ++i) {
      const unsigned sign = (codes[i] & 0x80u) << 8;
      const unsigned magnitude = codes[i] & 0x7fu;
      halves[i] = static_cast<std::uint16_t>(sign | (magnitude == 0x7f ? 0x7e00u : magnitude << 7));
    }
    Isa::halves(halves.data(), kCodeStep, 256, scale, factor, to);
  }
};

// The upper half of an fp16 number.
struct Float8E5M2 {
  static constexpr int kCodesPerByte = 1;
  float factor;
  template <typename Isa, typename Out>
  STEADYFLUX_INLINE void operator()(const std::uint8_t* codes, float scale, Out* to) const {
    alignas(64) std::array<std::uint16_t, kCodeStep> halves;
    for (int i = 0; i < kCodeStep; ++i) halves[i] = static_cast<std::uint16_t>(codes[i] << 8);
    Isa::halves(halves.data(), kCodeStep, 1, scale, factor, to);
  }
};

struct Int8 {
  static constexpr int kCodesPerByte = 1;
  float factor;
  template <typename Isa, typename Out>
  STEADYFLUX_INLINE void operator()(const std::uint8_t* codes, float scale, Out* to) const {
    const float minimum = 0;
    Isa::template affine<kCodeStep>(reinterpret_cast<const std::int8_t*>(codes), kCodeStep, &scale,
                                    &minimum, factor, to);
  }
};

// Two codes in a byte, the first in the high half.
struct Codes4 {
  static constexpr int kCodesPerByte = 2;
  const float* table;
  template <typename Isa, typename Out>
  STEADYFLUX_INLINE void operator()(const std::uint8_t* bytes, float scale, Out* to) const {
    alignas(64) std::array<std::uint8_t, kCodeStep> codes;
    for (std::size_t i = 0; i < kCodeStep / 2; ++i) {
      codes[2 * i] = bytes[i] >> 4;
      codes[2 * i + 1] = bytes[i] & 15;
    }
    Isa::look_up(codes.data(), kCodeStep, table, scale, to);
  }
};

}  // namespace steadyflux
