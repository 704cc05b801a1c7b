// Pixels to compressed bytes through stb_image_write, without its limits being hit silently. Used
// by png.cpp and jpeg.cpp, which state the errors.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace steadyflux {

std::vector<std::uint8_t> stb_png(std::int64_t width, std::int64_t height,
                                  std::span<const std::uint8_t> rgb);
std::vector<std::uint8_t> stb_jpeg(std::int64_t width, std::int64_t height,
                                   std::span<const std::uint8_t> rgb, int quality);

}  // namespace steadyflux
