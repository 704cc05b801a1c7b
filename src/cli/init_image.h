// --image, --mask and --strength: what image to image begins from.
#pragma once

#include <filesystem>
#include <memory>

#include "steadyflux/pipeline.h"

namespace steadyflux::cli {

inline constexpr double kDefaultStrength = 0.6;  // diffusers'

// Sides that are 0 are filled in from the picture's own size: both of them, each rounded down to a
// multiple of 16, or one so that its shape is kept as well as multiples of 16 can. Throws
// Error{kBadInput} if the file is no picture.
void fill_size_from(const std::filesystem::path& image, std::int64_t& width, std::int64_t& height);

// `mask` may be empty. Files are looked at, and their pixels read when they are asked for: resized
// with Lanczos' filter to width x height, whatever their shape. Throws Error{kBadInput} if one is
// no picture.
std::shared_ptr<const InitImage> make_init_image(const std::filesystem::path& image,
                                                 const std::filesystem::path& mask, double strength,
                                                 std::int64_t width, std::int64_t height);

}  // namespace steadyflux::cli
