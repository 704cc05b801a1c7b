// The largest picture whose plan fits.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "memory/plan.h"

namespace steadyflux {

// Width to height of a picture, as whole numbers: 16 to 9.
struct Aspect {
  std::int64_t width = 1;
  std::int64_t height = 1;
};

struct PictureSides {
  std::int64_t width = 0;   // pixels
  std::int64_t height = 0;  // pixels
};

// The picture of this aspect whose longer side is `longer`, a multiple of `multiple`; the other
// side is the nearest multiple.
PictureSides sides_of(const Aspect& aspect, std::int64_t longer, std::int64_t multiple);

// The picture of this aspect that comes nearest to `pixels`, in multiples of `multiple`.
PictureSides sides_of_area(const Aspect& aspect, double pixels, std::int64_t multiple);

// What the writers of pictures take.
constexpr std::int64_t kMostSide = 16384;
constexpr std::int64_t kMostPixels = (std::int64_t{512} << 20) / 3;

// Of all sizes of this aspect in the model's steps, up to kMostSide and kMostPixels: one whose plan
// fits while the next larger one's does not. Nothing if not even the smallest fits. The workload's
// own size plays no part. `accepts` may refuse plans that fit: it has to refuse those of larger
// sizes, too.
std::optional<PictureSides> largest_size(const FluxModel& model, const Workload& workload,
                                         const Budget& budget, const PlanOptions& options,
                                         const Aspect& aspect,
                                         const std::function<bool(const Plan&)>& accepts = {});

}  // namespace steadyflux
