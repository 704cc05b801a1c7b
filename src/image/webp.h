// WebP files to pixels through libwebp, for read_picture.cpp, which states the errors.
#pragma once

#include <cstdint>
#include <span>

#include "image/decoded_pixels.h"

namespace steadyflux {

bool is_webp(std::span<const std::uint8_t> bytes);

constexpr const char* kAnimation = "an animation";

// From the header, without pixels. The problem with animations is kAnimation.
DecodedPixels webp_read_header(std::span<const std::uint8_t> bytes);
// Transparency is dropped.
DecodedPixels webp_decode(std::span<const std::uint8_t> bytes);

// Whether all is there that the file's header says.
bool webp_is_whole(std::span<const std::uint8_t> bytes);

}  // namespace steadyflux
