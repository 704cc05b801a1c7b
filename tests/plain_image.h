// Pictures whose pixels are known.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "steadyflux/pipeline.h"

namespace steadyflux {

using Color = std::array<int, 3>;

inline Image plain(std::int64_t width, std::int64_t height, const Color& color) {
  Image image;
  image.width = width;
  image.height = height;
  for (std::int64_t i = 0; i < width * height; ++i) {
    for (const int value : color) image.rgb.push_back(static_cast<std::uint8_t>(value));
  }
  return image;
}

inline Color color_at(const Image& image, std::int64_t x, std::int64_t y) {
  const auto at = static_cast<std::size_t>((y * image.width + x) * 3);
  return {image.rgb[at], image.rgb[at + 1], image.rgb[at + 2]};
}

}  // namespace steadyflux
