// The search for scales that quantisers share. All of it goes back and forth between two steps that
// each can only lower the sum of squared errors: the nearest codes for a scale and an offset, and
// the scale and the offset that fit these codes best (least squares). Where that ends depends on
// where it starts, so it starts from several scales and the best end is taken.
#pragma once

#include <array>
#include <cmath>
#include <cstring>

#include "quantization/inline.h"

namespace steadyflux {

// Eight values that operators work on at once, on any CPU.
using Floats8 = float __attribute__((vector_size(32)));

STEADYFLUX_INLINE float sum(const Floats8& v) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

// A group of values that share a scale (and an offset).
template <int kValues>
using Group = std::array<Floats8, kValues / 8>;

// The codes a format has.
struct CodeRange {
  float lowest, highest;
};

// value = scale * code + offset
struct Fit {
  float scale = 0, offset = 0;
  float error = 0;  // the sum of squares
};

// Scales so small are zero: no format can hold them (the least fp16 number is 6e-8), and dividing
// by them would overflow.
inline constexpr float kNoScale = 1e-12f;

template <int kValues>
STEADYFLUX_INLINE void nearest_codes(const Group<kValues>& x, float scale, float offset,
                                     CodeRange range, Group<kValues>& codes) {
  const float inverse = std::fabs(scale) > kNoScale ? 1 / scale : 0;
  // Adding and subtracting this rounds to an integer, to the even one of two that are as near.
  constexpr float kRound = 12582912;  // 1.5 * 2^23
  const Floats8 lowest = range.lowest - Floats8{}, highest = range.highest - Floats8{};
  for (std::size_t i = 0; i < x.size(); ++i) {
    Floats8 code = (x[i] - offset) * inverse;
    code = code < lowest ? lowest : code;
    code = code > highest ? highest : code;
    codes[i] = (code + kRound) - kRound;
  }
}

template <int kValues>
STEADYFLUX_INLINE float squared_error(const Group<kValues>& x, const Group<kValues>& codes,
                                      float scale, float offset) {
  Floats8 total = {};
  for (std::size_t i = 0; i < x.size(); ++i) {
    const Floats8 difference = x[i] - (codes[i] * scale + offset);
    total += difference * difference;
  }
  return sum(total);
}

// The error of the nearest codes.
template <int kValues>
STEADYFLUX_INLINE float error_of(const Group<kValues>& x, float scale, float offset,
                                 CodeRange range) {
  Group<kValues> codes;
  nearest_codes<kValues>(x, scale, offset, range, codes);
  return squared_error<kValues>(x, codes, scale, offset);
}

// Sums over a group that least squares need.
struct Sums {
  float codes = 0, codes2 = 0, x_codes = 0, x = 0;
};
template <int kValues>
STEADYFLUX_INLINE Sums sums_of(const Group<kValues>& x, const Group<kValues>& codes) {
  Floats8 c = {}, c2 = {}, xc = {}, xs = {};
  for (std::size_t i = 0; i < x.size(); ++i) {
    c += codes[i];
    c2 += codes[i] * codes[i];
    xc += x[i] * codes[i];
    xs += x[i];
  }
  return {sum(c), sum(c2), sum(xc), sum(xs)};
}

struct Ends {
  float least = 0, largest = 0;
};
template <int kValues>
STEADYFLUX_INLINE Ends ends_of(const Group<kValues>& x) {
  Floats8 least = x[0], largest = x[0];
  for (const Floats8& v : x) {
    least = v < least ? v : least;
    largest = v > largest ? v : largest;
  }
  Ends ends{least[0], largest[0]};
  for (int i = 1; i < 8; ++i) {
    ends.least = least[i] < ends.least ? least[i] : ends.least;
    ends.largest = largest[i] > ends.largest ? largest[i] : ends.largest;
  }
  return ends;
}

// value = scale * code. Starts: the value of largest magnitude is given each code of `tops`.
template <int kValues, std::size_t kStarts>
STEADYFLUX_INLINE Fit fit_scale(const Group<kValues>& x, CodeRange range,
                                const std::array<float, kStarts>& tops) {
  const auto ends = ends_of<kValues>(x);
  const float top = -ends.least > ends.largest ? ends.least : ends.largest;
  Group<kValues> codes = {};
  Fit best = {0, 0, squared_error<kValues>(x, codes, 0, 0)};
  for (const float start : tops) {
    float scale = top / start;
    for (int step = 0; step < 2; ++step) {
      nearest_codes<kValues>(x, scale, 0, range, codes);
      const Sums s = sums_of<kValues>(x, codes);
      scale = s.codes2 > 0 ? s.x_codes / s.codes2 : 0;
    }
    const float error = squared_error<kValues>(x, codes, scale, 0);
    if (error < best.error) best = {scale, 0, error};
  }
  return best;
}

enum class Offsets { kAny, kNegative, kPositive };

// value = scale * code + offset, codes from 0. Starts: the range of the values, made smaller by
// each of `shrink` (1: as it is) at both ends.
template <int kValues, std::size_t kStarts>
STEADYFLUX_INLINE Fit fit_scale_and_offset(const Group<kValues>& x, float highest_code,
                                           Offsets offsets,
                                           const std::array<float, kStarts>& shrink) {
  constexpr auto kCount = static_cast<float>(kValues);
  auto ends = ends_of<kValues>(x);
  if (offsets == Offsets::kNegative && ends.least > 0) ends.least = 0;
  if (offsets == Offsets::kPositive && ends.least < 0) ends.least = 0;
  const CodeRange range = {0, highest_code};
  Group<kValues> codes = {};
  Fit best = {0, ends.least, squared_error<kValues>(x, codes, 0, ends.least)};
  for (const float part : shrink) {
    const float width = (ends.largest - ends.least) * part;
    float scale = width / highest_code;
    float offset = ends.least + (ends.largest - ends.least - width) / 2;
    if (offsets == Offsets::kNegative && offset > 0) offset = 0;
    for (int step = 0; step < 3; ++step) {
      nearest_codes<kValues>(x, scale, offset, range, codes);
      const Sums s = sums_of<kValues>(x, codes);
      const float determinant = kCount * s.codes2 - s.codes * s.codes;
      if (!(determinant > 0)) break;
      scale = (kCount * s.x_codes - s.x * s.codes) / determinant;
      offset = (s.codes2 * s.x - s.codes * s.x_codes) / determinant;
      if ((offsets == Offsets::kNegative && offset > 0) ||
          (offsets == Offsets::kPositive && offset < 0)) {
        offset = 0;
        scale = s.x_codes / s.codes2;
      }
    }
    const float error = squared_error<kValues>(x, codes, scale, offset);
    if (error < best.error && scale >= 0) best = {scale, offset, error};
  }
  return best;
}

}  // namespace steadyflux
