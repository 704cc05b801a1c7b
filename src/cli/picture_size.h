// --size and --aspect.
#pragma once

#include <cstdint>
#include <string>

#include "memory/largest_size.h"

namespace steadyflux::cli {

inline constexpr std::int64_t kSideMultiple = 16;  // of pictures, pixels

// "16:9", "3:2", "1.85:1". Throws Error{kUsage}.
Aspect parse_aspect(const std::string& text);

struct SizeSpec {
  bool is_auto = false;  // the largest that fits
  PictureSides sides;    // else
};

// "1072x1920", "1024" (a square), "1mp", "0.5mp" (1mp is 1024 x 1024 pixels) or "auto"; `aspect` is
// for the last two, and 1:1 if it is nullptr. Sides that are written out have to be multiples of
// 16. Throws Error{kUsage}.
SizeSpec parse_size(const std::string& text, const Aspect* aspect);

// --to of `upscale`, for a picture of this size: "2048" (its longer side), "1920x1088" or "2x", in
// multiples of 16. Throws Error{kUsage}, also if that is not larger.
PictureSides parse_goal(const std::string& text, const PictureSides& picture);

}  // namespace steadyflux::cli
