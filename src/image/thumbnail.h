// Small pictures of large ones, for contact sheets and galleries. Light is averaged, not the
// numbers that stand for it: fine patterns keep their brightness.
#pragma once

#include <cstdint>

#include "steadyflux/pipeline.h"

namespace steadyflux {

// What a picture of width x height becomes in a square of `side` pixels: its aspect is kept, no
// side becomes 0, and a smaller picture is not enlarged.
struct ThumbnailSize {
  std::int64_t width = 0;
  std::int64_t height = 0;
};
ThumbnailSize thumbnail_size(std::int64_t width, std::int64_t height, std::int64_t side);

// Every pixel is the mean of the area it covers.
Image make_thumbnail(const Image& image, std::int64_t side);

}  // namespace steadyflux
