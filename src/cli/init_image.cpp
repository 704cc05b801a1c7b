#include "cli/init_image.h"

#include <algorithm>
#include <cmath>

#include "image/read_picture.h"
#include "image/resample.h"

namespace steadyflux::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kMultiple = 16;

std::int64_t scaled_side(std::int64_t side, std::int64_t of, std::int64_t to) {
  const double exact =
      static_cast<double>(side) * static_cast<double>(of) / static_cast<double>(to);
  return std::max<std::int64_t>(std::llround(exact / kMultiple), 1) * kMultiple;
}

}  // namespace

void fill_size_from(const fs::path& image, std::int64_t& width, std::int64_t& height) {
  if (width > 0 && height > 0) return;
  const auto size = read_picture_size(image);
  if (width == 0 && height == 0) {
    width = std::max(size.width / kMultiple, std::int64_t{1}) * kMultiple;
    height = std::max(size.height / kMultiple, std::int64_t{1}) * kMultiple;
  } else if (width == 0) {
    width = scaled_side(height, size.width, size.height);
  } else {
    height = scaled_side(width, size.height, size.width);
  }
}

std::shared_ptr<const InitImage> make_init_image(const fs::path& image, const fs::path& mask,
                                                 double strength, std::int64_t width,
                                                 std::int64_t height) {
  auto init = std::make_shared<InitImage>();
  init->load_bytes = read_picture_size(image).reading_bytes();
  if (!mask.empty()) {
    init->load_bytes = std::max(init->load_bytes, read_picture_size(mask).reading_bytes());
  }
  init->image = image;
  init->mask = mask;
  init->strength = strength;
  init->load = [image, mask, width, height] {
    InitImage::Pixels pixels{resample_lanczos(read_picture(image), width, height), {}};
    if (!mask.empty()) pixels.mask = to_grey(resample_lanczos(read_picture(mask), width, height));
    return pixels;
  };
  return init;
}

}  // namespace steadyflux::cli
