#include "cli/condition_image.h"

#include <array>
#include <cmath>

#include "cli/init_image.h"
#include "cli/option_values.h"

namespace steadyflux::cli {
namespace {

namespace fs = std::filesystem;

// Those that Kontext was trained on, from tall to wide.
constexpr std::array<PictureSides, 17> kPreferred = {{{672, 1568},
                                                      {688, 1504},
                                                      {720, 1456},
                                                      {752, 1392},
                                                      {800, 1328},
                                                      {832, 1248},
                                                      {880, 1184},
                                                      {944, 1104},
                                                      {1024, 1024},
                                                      {1104, 944},
                                                      {1184, 880},
                                                      {1248, 832},
                                                      {1328, 800},
                                                      {1392, 752},
                                                      {1456, 720},
                                                      {1504, 688},
                                                      {1568, 672}}};

double shape_of(const PictureSides& sides) {
  return static_cast<double>(sides.width) / static_cast<double>(sides.height);
}

}  // namespace

PictureSides reference_size(const fs::path& image, const std::string& which) {
  check_one_of("reference-size", which, {"preferred", "own"});
  PictureSides own{0, 0};
  fill_size_from(image, own.width, own.height);
  if (which == "own") return own;
  PictureSides best = kPreferred.front();
  for (const auto& sides : kPreferred) {
    const auto off = [&](const PictureSides& one) {
      return std::abs(shape_of(own) - shape_of(one));
    };
    if (off(sides) < off(best)) best = sides;
  }
  return best;
}

std::shared_ptr<const ConditionImage> make_condition_image(ConditionImage::Role role,
                                                           const fs::path& image,
                                                           const fs::path& mask, std::int64_t width,
                                                           std::int64_t height) {
  auto condition = std::make_shared<ConditionImage>();
  condition->role = role;
  condition->image = image;
  condition->mask = mask;
  condition->width = width;
  condition->height = height;
  auto reader = picture_reader(image, mask, width, height);
  condition->load = std::move(reader.load);
  condition->load_bytes = reader.load_bytes;
  return condition;
}

}  // namespace steadyflux::cli
