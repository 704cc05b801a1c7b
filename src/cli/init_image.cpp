#include "cli/init_image.h"

#include <algorithm>
#include <cmath>

#include "image/read_picture.h"
#include "image/resample.h"

namespace steadyflux::cli {
namespace {

namespace fs = std::filesystem;

std::int64_t scaled_side(std::int64_t side, std::int64_t of, std::int64_t to) {
  const double exact =
      static_cast<double>(side) * static_cast<double>(of) / static_cast<double>(to);
  return std::max<std::int64_t>(std::llround(exact / kSideMultiple), 1) * kSideMultiple;
}

}  // namespace

void fill_sides_from(std::int64_t picture_width, std::int64_t picture_height, std::int64_t& width,
                     std::int64_t& height) {
  if (width == 0 && height == 0) {
    width = std::max(picture_width / kSideMultiple, std::int64_t{1}) * kSideMultiple;
    height = std::max(picture_height / kSideMultiple, std::int64_t{1}) * kSideMultiple;
  } else if (width == 0) {
    width = scaled_side(height, picture_width, picture_height);
  } else if (height == 0) {
    height = scaled_side(width, picture_height, picture_width);
  }
}

void fill_size_from(const fs::path& image, std::int64_t& width, std::int64_t& height) {
  if (width > 0 && height > 0) return;
  const auto size = read_picture_size(image);
  fill_sides_from(size.width, size.height, width, height);
}

PictureReader picture_reader(const fs::path& image, const fs::path& mask, std::int64_t width,
                             std::int64_t height) {
  PictureReader reader;
  reader.load_bytes = read_picture_size(image).reading_bytes();
  if (!mask.empty()) {
    reader.load_bytes = std::max(reader.load_bytes, read_picture_size(mask).reading_bytes());
  }
  reader.load = [image, mask, width, height] {
    InitImage::Pixels pixels{resample_lanczos(read_picture(image), width, height), {}};
    if (!mask.empty()) pixels.mask = to_grey(resample_lanczos(read_picture(mask), width, height));
    return pixels;
  };
  return reader;
}

std::shared_ptr<const InitImage> make_init_image(const fs::path& image, const fs::path& mask,
                                                 double strength, std::int64_t width,
                                                 std::int64_t height) {
  auto init = std::make_shared<InitImage>();
  init->image = image;
  init->mask = mask;
  init->strength = strength;
  auto reader = picture_reader(image, mask, width, height);
  init->load = std::move(reader.load);
  init->load_bytes = reader.load_bytes;
  return init;
}

}  // namespace steadyflux::cli
