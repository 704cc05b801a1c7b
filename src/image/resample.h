// Pictures in another size, as Pillow's resize makes them, which diffusers and transformers use.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "steadyflux/pipeline.h"

namespace steadyflux {

// LANCZOS; width, height >= 1. The same picture if it has that size already.
Image resample_lanczos(const Image& image, std::int64_t width, std::int64_t height);
// BICUBIC (a = -0.5), likewise.
Image resample_bicubic(const Image& image, std::int64_t width, std::int64_t height);

// One byte a pixel, of the RGB: (19595 R + 38470 G + 7471 B) / 65536, rounded, as Pillow's "L".
std::vector<std::uint8_t> to_grey(const Image& image);

}  // namespace steadyflux
