#include "cli/picture_size.h"

#include <fmt/format.h>

#include <cmath>
#include <optional>
#include <string_view>

#include "base/utf8.h"
#include "cli/parse_number.h"
#include "steadyflux/error.h"

namespace steadyflux::cli {
namespace {

constexpr std::int64_t kMultiple = 16;
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
  if (!value || *value < kMultiple || *value > kMostSide) bad_size(text);
  if (*value % kMultiple != 0) {
    const auto below = *value / kMultiple * kMultiple;
    throw Error(ErrorKind::kUsage,
                fmt::format("--size {}: {} is not a multiple of 16: use {} or {}", printable(text),
                            *value, below, below + kMultiple));
  }
  return *value;
}

}  // namespace

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
    return {.is_auto = false, .sides = sides_of_area(shape, *area * kMegapixel, kMultiple)};
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
