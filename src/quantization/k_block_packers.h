// Packs blocks of 256 values, whose groups of 32 or 16 have scales that are integers times one
// number. After a search for each group by itself, integers near the best are tried, and that
// number is fitted again to what was chosen.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "quantization/block_packers.h"

namespace steadyflux {

// --- Q4_K and Q5_K
// --------------------------------------------------------------------------------

// value = d * scale * code - dmin * minimum; scale and minimum of each of 8 groups in 0..63.
struct KBlock {
  Half d = {}, dmin = {};
  std::array<int, 8> scales = {}, minima = {};
  float error = 0;
};

// Scales and minima of all groups near where they are, one group at a time.
STEADYFLUX_INLINE void choose_k_scales(const std::array<Group<32>, 8>& x, CodeRange range,
                                       int reach, KBlock& block) {
  block.error = 0;
  for (std::size_t j = 0; j < 8; ++j) {
    const int scale0 = block.scales[j], minimum0 = block.minima[j];
    float least = 0;
    bool first = true;
    for (int scale = std::max(scale0 - reach, 0); scale <= std::min(scale0 + reach, 63); ++scale) {
      for (int minimum = std::max(minimum0 - reach, 0); minimum <= std::min(minimum0 + reach, 63);
           ++minimum) {
        const float error = error_of<32>(x[j], block.d.value * static_cast<float>(scale),
                                         -(block.dmin.value * static_cast<float>(minimum)), range);
        if (!first && !(error < least)) continue;
        first = false;
        least = error;
        block.scales[j] = scale;
        block.minima[j] = minimum;
      }
    }
    block.error += least;
  }
}

// d and dmin that fit best with all else as it is.
STEADYFLUX_INLINE void refit_k_block(const std::array<Group<32>, 8>& x, CodeRange range,
                                     KBlock& block) {
  float aa = 0, ab = 0, bb = 0, xa = 0, xb = 0;
  for (std::size_t j = 0; j < 8; ++j) {
    const auto scale = static_cast<float>(block.scales[j]);
    const auto minimum = static_cast<float>(block.minima[j]);
    Group<32> codes;
    nearest_codes<32>(x[j], block.d.value * scale, -(block.dmin.value * minimum), range, codes);
    const Sums s = sums_of<32>(x[j], codes);
    aa += scale * scale * s.codes2;
    ab -= scale * minimum * s.codes;
    bb += minimum * minimum * 32;
    xa += scale * s.x_codes;
    xb -= minimum * s.x;
  }
  const float determinant = aa * bb - ab * ab;
  if (determinant > 1e-6f * aa * bb) {
    block.d = nearest_half((xa * bb - xb * ab) / determinant);
    block.dmin = nearest_half((xb * aa - xa * ab) / determinant);
  } else if (aa > 0 && bb == 0) {
    block.d = nearest_half(xa / aa);
  }
}

STEADYFLUX_INLINE KBlock fit_k_block(const std::array<Group<32>, 8>& x, float highest_code,
                                     bool negative_minima) {
  constexpr std::array<float, 7> kShrink = {1, 0.96f, 0.92f, 0.88f, 0.84f, 0.8f, 0.75f};
  const CodeRange range = {0, highest_code};
  const float sign = negative_minima ? -1.0f : 1.0f;
  std::array<Fit, 8> fits;
  float largest_scale = 0, largest_minimum = 0;
  for (std::size_t j = 0; j < 8; ++j) {
    fits[j] = fit_scale_and_offset<32>(
        x[j], highest_code, negative_minima ? Offsets::kPositive : Offsets::kNegative, kShrink);
    largest_scale = std::max(largest_scale, fits[j].scale);
    largest_minimum = std::max(largest_minimum, -sign * fits[j].offset);
  }
  KBlock block;
  block.d = nearest_half(largest_scale / 63);
  block.dmin = nearest_half(sign * largest_minimum / 63);
  for (std::size_t j = 0; j < 8; ++j) {
    const auto step_of = [](float value, float unit) {
      return unit == 0 ? 0 : static_cast<int>(std::clamp(value / unit + 0.5f, 0.0f, 63.0f));
    };
    block.scales[j] = step_of(fits[j].scale, block.d.value);
    block.minima[j] = step_of(-fits[j].offset, block.dmin.value);
  }
  choose_k_scales(x, range, 1, block);
  for (int round = 0; round < 2; ++round) {
    KBlock next = block;
    refit_k_block(x, range, next);
    choose_k_scales(x, range, 1, next);
    if (!(next.error < block.error)) break;
    block = next;
  }
  return block;
}

// The twelve bytes that read_k_scales takes apart.
STEADYFLUX_INLINE void write_k_scales(const KBlock& block, std::uint8_t* to) {
  write_half(block.d, to);
  write_half(block.dmin, to + 2);
  for (std::size_t i = 0; i < 4; ++i) {
    const int scale = block.scales[4 + i], minimum = block.minima[4 + i];
    to[4 + i] = static_cast<std::uint8_t>(block.scales[i] | (scale >> 4) << 6);
    to[8 + i] = static_cast<std::uint8_t>(block.minima[i] | (minimum >> 4) << 6);
    to[12 + i] = static_cast<std::uint8_t>((scale & 15) | (minimum & 15) << 4);
  }
}

// Scales to 16 bytes at `to`, codes as bytes.
STEADYFLUX_INLINE void pack_k_block(const float* values, float highest_code, std::uint8_t* to,
                                    std::uint8_t* codes) {
  std::array<Group<32>, 8> x;
  bool has_positive_group = false;  // a minimum of which ought to be negative
  for (std::size_t j = 0; j < 8; ++j) {
    read_group<32>(values + 32 * j, x[j]);
    has_positive_group |= ends_of<32>(x[j]).least > 0;
  }
  KBlock block = fit_k_block(x, highest_code, false);
  if (has_positive_group) {
    const KBlock other = fit_k_block(x, highest_code, true);
    if (other.error < block.error) block = other;
  }
  write_k_scales(block, to);
  for (std::size_t j = 0; j < 8; ++j) {
    Group<32> nearest;
    nearest_codes<32>(x[j], block.d.value * static_cast<float>(block.scales[j]),
                      -(block.dmin.value * static_cast<float>(block.minima[j])), {0, highest_code},
                      nearest);
    write_codes<32>(nearest, 0, codes + 32 * j);
  }
}

template <>
struct Packer<DType::kQ4_K> {
  static constexpr int kValues = 256, kBytes = 144;
  STEADYFLUX_INLINE static void pack(const float* values, std::uint8_t* to) {
    std::array<std::uint8_t, 256> codes;
    pack_k_block(values, 15, to, codes.data());
    for (std::ptrdiff_t i = 0; i < 4; ++i)
      join_nibbles(codes.data() + 64 * i, 32, to + 16 + 32 * i);
  }
};

template <>
struct Packer<DType::kQ5_K> {
  static constexpr int kValues = 256, kBytes = 176;
  STEADYFLUX_INLINE static void pack(const float* values, std::uint8_t* to) {
    std::array<std::uint8_t, 256> codes;
    pack_k_block(values, 31, to, codes.data());
    for (std::ptrdiff_t i = 0; i < 4; ++i)
      join_nibbles(codes.data() + 64 * i, 32, to + 48 + 32 * i);
    for (int i = 0; i < 32; ++i) {
      unsigned byte = 0;
      for (int part = 0; part < 8; ++part) byte |= (codes[32 * part + i] >> 4 & 1u) << part;
      to[16 + i] = static_cast<std::uint8_t>(byte);
    }
  }
};

// --- Q6_K
// -----------------------------------------------------------------------------------------

// value = d * scale * code; the scale of each of 16 groups in -128..127.
struct Q6Block {
  Half d = {};
  std::array<int, 16> scales = {};
  float error = 0;
};
inline constexpr CodeRange kQ6Codes = {-32, 31};

STEADYFLUX_INLINE void choose_q6_scales(const std::array<Group<16>, 16>& x, Q6Block& block) {
  block.error = 0;
  for (std::size_t j = 0; j < 16; ++j) {
    const int scale0 = block.scales[j];
    float least = 0;
    bool first = true;
    for (int scale = std::max(scale0 - 1, -128); scale <= std::min(scale0 + 1, 127); ++scale) {
      const float error =
          error_of<16>(x[j], block.d.value * static_cast<float>(scale), 0, kQ6Codes);
      if (!first && !(error < least)) continue;
      first = false;
      least = error;
      block.scales[j] = scale;
    }
    block.error += least;
  }
}

STEADYFLUX_INLINE void refit_q6_block(const std::array<Group<16>, 16>& x, Q6Block& block) {
  float aa = 0, xa = 0;
  for (std::size_t j = 0; j < 16; ++j) {
    const auto scale = static_cast<float>(block.scales[j]);
    Group<16> codes;
    nearest_codes<16>(x[j], block.d.value * scale, 0, kQ6Codes, codes);
    const Sums s = sums_of<16>(x[j], codes);
    aa += scale * scale * s.codes2;
    xa += scale * s.x_codes;
  }
  if (aa > 0) block.d = nearest_half(xa / aa);
}

template <>
struct Packer<DType::kQ6_K> {
  static constexpr int kValues = 256, kBytes = 210;
  STEADYFLUX_INLINE static void pack(const float* values, std::uint8_t* to) {
    constexpr std::array<float, 10> kTops = {-32, -32.5f, -31.5f, -31,    -30.4f,
                                             -29, 31,     31.5f,  -27.5f, 30};
    std::array<Group<16>, 16> x;
    std::array<float, 16> scales;
    float largest = 0;  // signed, of largest magnitude
    for (std::size_t j = 0; j < 16; ++j) {
      read_group<16>(values + 16 * j, x[j]);
      scales[j] = fit_scale<16>(x[j], kQ6Codes, kTops).scale;
      if (std::fabs(scales[j]) > std::fabs(largest)) largest = scales[j];
    }
    Q6Block block;
    block.d = nearest_half(largest / -128);
    for (std::size_t j = 0; j < 16 && block.d.value != 0; ++j) {
      block.scales[j] =
          static_cast<int>(std::lrint(std::clamp(scales[j] / block.d.value, -128.0f, 127.0f)));
    }
    choose_q6_scales(x, block);
    for (int round = 0; round < 2; ++round) {
      Q6Block next = block;
      refit_q6_block(x, next);
      choose_q6_scales(x, next);
      if (!(next.error < block.error)) break;
      block = next;
    }
    write(x, block, to);
  }

 private:
  STEADYFLUX_INLINE static void write(const std::array<Group<16>, 16>& x, const Q6Block& block,
                                      std::uint8_t* to) {
    std::array<std::uint8_t, 256> codes;
    for (std::size_t j = 0; j < 16; ++j) {
      Group<16> nearest;
      nearest_codes<16>(x[j], block.d.value * static_cast<float>(block.scales[j]), 0, kQ6Codes,
                        nearest);
      write_codes<16>(nearest, 32, codes.data() + 16 * j);
      to[192 + j] = static_cast<std::uint8_t>(block.scales[j]);
    }
    for (std::ptrdiff_t half = 0; half < 2; ++half) {
      const std::uint8_t* c = codes.data() + 128 * half;
      join_nibbles(c, 64, to + 64 * half);
      for (int i = 0; i < 32; ++i) {
        to[128 + 32 * half + i] = static_cast<std::uint8_t>(
            c[i] >> 4 | c[32 + i] >> 4 << 2 | c[64 + i] >> 4 << 4 | c[96 + i] >> 4 << 6);
      }
    }
    write_half(block.d, to + 208);
  }
};

}  // namespace steadyflux
