#include "cli/picture_size.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string_view>

#include "base/utf8.h"
#include "cli/parse_number.h"
#include "steadyflux/error.h"

namespace steadyflux::cli {
namespace {

constexpr const char* kGoalForms =
    "expected the longer side or WIDTHxHEIGHT in pixels, multiples of 16, or a factor such as 2x";
constexpr double kMegapixel = 1024.0 * 1024.0;
constexpr double kMostMegapixels = 170;  // 512 MiB of bytes

[[noreturn]] void bad_size(const std::string& text) {
  throw Error(ErrorKind::kUsage,
              fmt::format("--size {}: expected WIDTHxHEIGHT, one side of a square, an area such as "
                          "1mp, or auto",
                          printable(text)));
}

std::int64_t parse_side(std::string_view side, const std::string& text) {
  const auto value = parse_number<std::int64_t>(std::string(side));
  if (!value || *value < kSideMultiple || *value > kMostSide) bad_size(text);
  if (*value % kSideMultiple != 0) {
    const auto below = *value / kSideMultiple * kSideMultiple;
    throw Error(ErrorKind::kUsage,
                fmt::format("--size {}: {} is not a multiple of 16: use {} or {}", printable(text),
                            *value, below, below + kSideMultiple));
  }
  return *value;
}

[[noreturn]] void bad_goal(const std::string& text, const std::string& why) {
  throw Error(ErrorKind::kUsage, fmt::format("--to {}: {}", printable(text), why));
}

PictureSides find_goal(const std::string& text, const PictureSides& picture) {
  const Aspect aspect{picture.width, picture.height};
  if (text.size() > 1 && text.ends_with('x')) {
    const auto factor = parse_number<double>(text.substr(0, text.size() - 1));
    if (!factor || !(*factor > 0 && *factor <= 1024)) bad_goal(text, kGoalForms);
    const auto longer =
        *factor * static_cast<double>(std::max(picture.width, picture.height)) / kSideMultiple;
    return sides_of(aspect, std::max<std::int64_t>(std::llround(longer), 1) * kSideMultiple,
                    kSideMultiple);
  }
  const auto side = [&](std::string_view digits) {
    const auto value = parse_number<std::int64_t>(std::string(digits));
    if (!value || *value < kSideMultiple || *value % kSideMultiple != 0) bad_goal(text, kGoalForms);
    return *value;
  };
  const auto cross = text.find('x');
  const auto first = side(std::string_view(text).substr(0, cross));
  if (cross == std::string::npos) return sides_of(aspect, first, kSideMultiple);
  return {first, side(std::string_view(text).substr(cross + 1))};
}

}  // namespace

PictureSides parse_goal(const std::string& text, const PictureSides& picture) {
  const auto goal = find_goal(text, picture);
  if (std::max(goal.width, goal.height) > kMostSide || goal.width * goal.height > kMostPixels) {
    bad_goal(text, fmt::format("{} x {} is larger than a picture may be, {} pixels a side and {} "
                               "in all",
                               goal.width, goal.height, kMostSide, kMostPixels));
  }
  if (goal.width * goal.height <= picture.width * picture.height) {
    bad_goal(text, fmt::format("{} x {} is not larger than the picture, {} x {}", goal.width,
                               goal.height, picture.width, picture.height));
  }
  return goal;
}

Aspect parse_aspect(const std::string& text) {
  constexpr double kParts = 1000;  // of numbers with a fraction
  const auto colon = text.find_first_of(":/");
  if (colon != std::string::npos) {
    const auto width = parse_number<double>(text.substr(0, colon));
    const auto height = parse_number<double>(text.substr(colon + 1));
    const auto sensible = [](const std::optional<double>& side) {
      return side && *side >= 0.01 && *side <= 100000;
    };
    if (sensible(width) && sensible(height) && *width / *height <= 64 && *height / *width <= 64) {
      return {std::llround(*width * kParts), std::llround(*height * kParts)};
    }
  }
  throw Error(ErrorKind::kUsage,
              fmt::format("--aspect {}: expected WIDTH:HEIGHT such as 16:9, at most 64:1",
                          printable(text)));
}

SizeSpec parse_size(const std::string& text, const Aspect* aspect) {
  if (text == "auto") return {.is_auto = true, .sides = {}};
  if (text.size() > 2 && text.ends_with("mp")) {
    const auto area = parse_number<double>(text.substr(0, text.size() - 2));
    if (!area || !(*area > 0 && *area <= kMostMegapixels)) bad_size(text);
    const auto shape = aspect != nullptr ? *aspect : Aspect{};
    return {.is_auto = false, .sides = sides_of_area(shape, *area * kMegapixel, kSideMultiple)};
  }
  if (aspect != nullptr) {
    throw Error(ErrorKind::kUsage,
                fmt::format("--aspect with --size {}, which says both sides; with an area such as "
                            "1mp or with auto it has a meaning",
                            printable(text)));
  }
  const auto cross = text.find_first_of("xX");
  const auto width = parse_side(std::string_view(text).substr(0, cross), text);
  if (cross == std::string::npos) return {.is_auto = false, .sides = {width, width}};
  return {.is_auto = false,
          .sides = {width, parse_side(std::string_view(text).substr(cross + 1), text)}};
}

}  // namespace steadyflux::cli
