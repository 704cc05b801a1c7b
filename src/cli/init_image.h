// --image, --mask and --strength: what image to image begins from. And what it has in common with
// pictures that a model is shown (condition_image.h): sizes, and reading files when they are asked
// for.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>

#include "cli/picture_size.h"
#include "steadyflux/pipeline.h"

namespace steadyflux::cli {

inline constexpr double kDefaultStrength = 0.6;  // diffusers'

// Sides that are 0 are filled in from those of a picture: both of them, each rounded down to a
// multiple of 16, or one so that its shape is kept as well as multiples of 16 can.
void fill_sides_from(std::int64_t picture_width, std::int64_t picture_height, std::int64_t& width,
                     std::int64_t& height);

// The same from a picture's file, which is looked at only if a side is 0. Throws Error{kBadInput}
// if it is no picture.
void fill_size_from(const std::filesystem::path& image, std::int64_t& width, std::int64_t& height);

// How files become pixels.
struct PictureReader {
  std::function<InitImage::Pixels()> load;
  std::int64_t load_bytes = 0;  // of RAM that it takes at most
};
// `mask` may be empty. Files are looked at, and their pixels read when they are asked for: resized
// with Lanczos' filter to width x height, whatever their shape. Throws Error{kBadInput} if one is
// no picture.
PictureReader picture_reader(const std::filesystem::path& image, const std::filesystem::path& mask,
                             std::int64_t width, std::int64_t height);

// Likewise.
std::shared_ptr<const InitImage> make_init_image(const std::filesystem::path& image,
                                                 const std::filesystem::path& mask, double strength,
                                                 std::int64_t width, std::int64_t height);

}  // namespace steadyflux::cli
