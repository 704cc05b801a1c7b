// Compressed bytes to pixels through stb_image, for read_picture.cpp, which checks what stb_image
// does not and states the errors.
#pragma once

#include <cstdint>
#include <span>

#include "image/decoded_pixels.h"

namespace steadyflux {

// From the header, without pixels. At most 2 GiB of bytes, for stb_decode as well.
DecodedPixels stb_read_header(std::span<const std::uint8_t> bytes);
DecodedPixels stb_decode(std::span<const std::uint8_t> bytes);

}  // namespace steadyflux
