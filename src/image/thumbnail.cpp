#include "image/thumbnail.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace steadyflux {
namespace {

// sRGB's transfer curve: 8-bit values to light and back.
class LightTables {
 public:
  LightTables() {
    for (std::size_t i = 0; i < to_light_.size(); ++i) {
      const double value = static_cast<double>(i) / 255;
      to_light_[i] = static_cast<float>(value <= 0.04045 ? value / 12.92
                                                         : std::pow((value + 0.055) / 1.055, 2.4));
    }
    for (std::size_t i = 0; i < from_light_.size(); ++i) {
      const double light = static_cast<double>(i) / static_cast<double>(kSteps);
      const double value =
          light <= 0.0031308 ? light * 12.92 : 1.055 * std::pow(light, 1 / 2.4) - 0.055;
      from_light_[i] = static_cast<std::uint8_t>(std::lround(value * 255));
    }
  }
  float light(std::uint8_t value) const { return to_light_[value]; }
  std::uint8_t value(float light) const {
    const auto at = static_cast<std::size_t>(std::lrint(light * static_cast<float>(kSteps)));
    return from_light_[std::min(at, kSteps)];
  }

 private:
  static constexpr std::size_t kSteps = 1 << 14;  // fine enough for every value to come back
  std::array<float, 256> to_light_{};
  std::array<std::uint8_t, kSteps + 1> from_light_{};
};

// The `in` pixels of a row or column that one of `out` pixels covers, the first and last in part.
struct Span {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  double first = 0;  // position of the edges, in pixels of the large picture
  double last = 0;
  float weight(std::int64_t at) const {
    const double covered =
        std::min(last, static_cast<double>(at + 1)) - std::max(first, static_cast<double>(at));
    return static_cast<float>(covered / (last - first));
  }
};

Span span_of(std::int64_t at, std::int64_t in, std::int64_t out) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  Span span;
  span.first = static_cast<double>(at) * scale;
  span.last = static_cast<double>(at + 1) * scale;
  span.begin = at * in / out;
  span.end = ((at + 1) * in + out - 1) / out;
  return span;
}

// One row of the large picture in the small one's width, as light: [width, 3].
void shrink_row(const std::uint8_t* row, const std::vector<Span>& columns,
                const LightTables& tables, std::vector<float>& light) {
  for (std::size_t x = 0; x < columns.size(); ++x) {
    std::array<float, 3> sum{};
    for (std::int64_t at = columns[x].begin; at < columns[x].end; ++at) {
      const float weight = columns[x].weight(at);
      for (std::size_t c = 0; c < 3; ++c) {
        sum[c] += weight * tables.light(row[static_cast<std::size_t>(at) * 3 + c]);
      }
    }
    std::copy(sum.begin(), sum.end(), light.begin() + static_cast<std::ptrdiff_t>(x * 3));
  }
}

}  // namespace

ThumbnailSize thumbnail_size(std::int64_t width, std::int64_t height, std::int64_t side) {
  const std::int64_t longest = std::max(width, height);
  if (longest <= side) return {width, height};
  const auto scaled = [&](std::int64_t length) {
    return std::max<std::int64_t>((length * side + longest / 2) / longest, 1);
  };
  return {scaled(width), scaled(height)};
}

Image make_thumbnail(const Image& image, std::int64_t side) {
  const ThumbnailSize size = thumbnail_size(image.width, image.height, side);
  if (size.width == image.width && size.height == image.height) return image;
  static const LightTables tables;
  std::vector<Span> columns;
  for (std::int64_t x = 0; x < size.width; ++x) {
    columns.push_back(span_of(x, image.width, size.width));
  }
  Image small;
  small.width = size.width;
  small.height = size.height;
  small.rgb.reserve(static_cast<std::size_t>(size.width * size.height * 3));
  std::vector<float> row(columns.size() * 3);  // [width, 3]
  std::vector<float> sum(row.size());          // [width, 3]
  for (std::int64_t y = 0; y < size.height; ++y) {
    const Span rows = span_of(y, image.height, size.height);
    std::fill(sum.begin(), sum.end(), 0.0F);
    for (std::int64_t at = rows.begin; at < rows.end; ++at) {
      shrink_row(image.rgb.data() + at * image.width * 3, columns, tables, row);
      const float weight = rows.weight(at);
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += weight * row[i];
    }
    for (const float light : sum) small.rgb.push_back(tables.value(light));
  }
  return small;
}

}  // namespace steadyflux
