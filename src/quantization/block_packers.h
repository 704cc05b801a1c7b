// Packs blocks: for each format of block_formats.h one function that makes a block of fp32 values.
// Here are the formats with blocks of 32 values and what all share; k_block_packers.h has the
// others.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "quantization/dtype.h"
#include "quantization/half_float.h"
#include "quantization/inline.h"
#include "quantization/scale_search.h"

namespace steadyflux {

// kBytes and kValues of a block; pack(values, to) makes one.
template <DType>
struct Packer;

inline constexpr float kLargestValue = 1e9;
inline constexpr float kLargestHalf = 65504;

// --- reading values, writing parts
// ----------------------------------------------------------------

template <int kValues>
STEADYFLUX_INLINE void read_group(const float* from, Group<kValues>& group) {
  for (std::size_t i = 0; i < group.size(); ++i) {
    Floats8 v;
    std::memcpy(&v, from + 8 * i, sizeof v);
    const Floats8 none = {}, limit = kLargestValue - none;
    v = v < -limit ? -limit : v;
    v = v > limit ? limit : v;
    group[i] = v * none == none ? v : none;  // NaN times zero is NaN
  }
}

// The fp16 number nearest to `value`, and what it is.
struct Half {
  std::uint16_t bits;
  float value;
};
STEADYFLUX_INLINE Half nearest_half(float value) {
  const auto bits = float_to_half(std::clamp(value, -kLargestHalf, kLargestHalf));
  return {bits, half_to_float(bits)};
}
STEADYFLUX_INLINE void write_half(Half half, std::uint8_t* to) {
  to[0] = static_cast<std::uint8_t>(half.bits & 0xff);
  to[1] = static_cast<std::uint8_t>(half.bits >> 8);
}

// Codes as bytes, `offset` added.
template <int kValues>
STEADYFLUX_INLINE void write_codes(const Group<kValues>& codes, int offset, std::uint8_t* to) {
  std::array<float, kValues> values;
  std::memcpy(values.data(), &codes, sizeof values);
  for (int i = 0; i < kValues; ++i) {
    to[i] = static_cast<std::uint8_t>(static_cast<int>(values[i]) + offset);
  }
}

STEADYFLUX_INLINE void join_nibbles(const std::uint8_t* codes, int count, std::uint8_t* to) {
  for (int i = 0; i < count; ++i) {
    to[i] = static_cast<std::uint8_t>((codes[i] & 15) | codes[count + i] << 4);
  }
}
// Bit 4 of 32 codes.
STEADYFLUX_INLINE void join_fifth_bits(const std::uint8_t* codes, std::uint8_t* to) {
  for (int i = 0; i < 4; ++i) {
    unsigned byte = 0;
    for (int j = 0; j < 8; ++j) byte |= (codes[8 * i + j] >> 4 & 1u) << j;
    to[i] = static_cast<std::uint8_t>(byte);
  }
}

// --- blocks of 32
// ---------------------------------------------------------------------------------

// The scale as fp16, and the codes that go with it. Rounding the scale may have made other codes
// the nearest, and these another scale the best.
template <int kValues>
STEADYFLUX_INLINE Half settle_scale(const Group<kValues>& x, CodeRange range, float scale,
                                    Group<kValues>& codes) {
  Half best = nearest_half(scale);
  nearest_codes<kValues>(x, best.value, 0, range, codes);
  const Sums s = sums_of<kValues>(x, codes);
  const Half again = nearest_half(s.codes2 > 0 ? s.x_codes / s.codes2 : 0);
  if (error_of<kValues>(x, again.value, 0, range) <
      squared_error<kValues>(x, codes, best.value, 0)) {
    best = again;
    nearest_codes<kValues>(x, best.value, 0, range, codes);
  }
  return best;
}

// Q4_0, Q5_0, Q8_0: `offset` makes the least code 0 (or is 0 for Q8_0's signed codes).
template <std::size_t kStarts>
STEADYFLUX_INLINE void pack_scaled(const Group<32>& x, CodeRange range,
                                   const std::array<float, kStarts>& tops, int offset,
                                   std::uint8_t* to_scale, std::uint8_t* codes) {
  Group<32> nearest;
  write_half(settle_scale<32>(x, range, fit_scale<32>(x, range, tops).scale, nearest), to_scale);
  write_codes<32>(nearest, offset, codes);
}

// Q4_1, Q5_1.
STEADYFLUX_INLINE void pack_with_offset(const Group<32>& x, float highest, std::uint8_t* to_scale,
                                        std::uint8_t* codes) {
  constexpr std::array<float, 7> kShrink = {1, 0.96f, 0.92f, 0.88f, 0.84f, 0.8f, 0.75f};
  const Fit fit = fit_scale_and_offset<32>(x, highest, Offsets::kAny, kShrink);
  const CodeRange range = {0, highest};
  const Half offset = nearest_half(fit.offset);
  // The offset is as it is now: the best scale for what is left.
  Group<32> nearest, rest;
  for (std::size_t i = 0; i < x.size(); ++i) rest[i] = x[i] - offset.value;
  write_half(settle_scale<32>(rest, range, fit.scale, nearest), to_scale);
  write_half(offset, to_scale + 2);
  write_codes<32>(nearest, 0, codes);
}

template <>
struct Packer<DType::kQ4_0> {
  static constexpr int kValues = 32, kBytes = 18;
  STEADYFLUX_INLINE static void pack(const float* values, std::uint8_t* to) {
    constexpr std::array<float, 10> kTops = {-8, -8.6f, -7.6f, -7.2f, -6.6f, 7, 7.5f, 8, 6.5f, -6};
    Group<32> x;
    read_group<32>(values, x);
    std::array<std::uint8_t, 32> codes;
    pack_scaled(x, {-8, 7}, kTops, 8, to, codes.data());
    join_nibbles(codes.data(), 16, to + 2);
  }
};

template <>
struct Packer<DType::kQ5_0> {
  static constexpr int kValues = 32, kBytes = 22;
  STEADYFLUX_INLINE static void pack(const float* values, std::uint8_t* to) {
    constexpr std::array<float, 10> kTops = {-16,    -16.6f, -15.5f, -15,    -14.3f,
                                             -13.5f, 15,     15.6f,  -12.5f, 14};
    Group<32> x;
    read_group<32>(values, x);
    std::array<std::uint8_t, 32> codes;
    pack_scaled(x, {-16, 15}, kTops, 16, to, codes.data());
    join_fifth_bits(codes.data(), to + 2);
    join_nibbles(codes.data(), 16, to + 6);
  }
};

template <>
struct Packer<DType::kQ8_0> {
  static constexpr int kValues = 32, kBytes = 34;
  STEADYFLUX_INLINE static void pack(const float* values, std::uint8_t* to) {
    constexpr std::array<float, 4> kTops = {127, 127.4f, 126.5f, 126};
    Group<32> x;
    read_group<32>(values, x);
    pack_scaled(x, {-127, 127}, kTops, 0, to, to + 2);
  }
};

template <>
struct Packer<DType::kQ4_1> {
  static constexpr int kValues = 32, kBytes = 20;
  STEADYFLUX_INLINE static void pack(const float* values, std::uint8_t* to) {
    Group<32> x;
    read_group<32>(values, x);
    std::array<std::uint8_t, 32> codes;
    pack_with_offset(x, 15, to, codes.data());
    join_nibbles(codes.data(), 16, to + 4);
  }
};

template <>
struct Packer<DType::kQ5_1> {
  static constexpr int kValues = 32, kBytes = 24;
  STEADYFLUX_INLINE static void pack(const float* values, std::uint8_t* to) {
    Group<32> x;
    read_group<32>(values, x);
    std::array<std::uint8_t, 32> codes;
    pack_with_offset(x, 31, to, codes.data());
    join_fifth_bits(codes.data(), to + 4);
    join_nibbles(codes.data(), 16, to + 8);
  }
};

}  // namespace steadyflux
