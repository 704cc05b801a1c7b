#include "memory/largest_size.h"

#include <algorithm>
#include <cmath>

namespace steadyflux {
namespace {

std::int64_t nearest_multiple(double length, std::int64_t multiple) {
  return std::max<std::int64_t>(std::llround(length / static_cast<double>(multiple)), 1) * multiple;
}

}  // namespace

PictureSides sides_of(const Aspect& aspect, std::int64_t longer, std::int64_t multiple) {
  const auto [w, h] = aspect;
  const double shorter = static_cast<double>(longer) * static_cast<double>(std::min(w, h)) /
                         static_cast<double>(std::max(w, h));
  const auto other = nearest_multiple(shorter, multiple);
  return w >= h ? PictureSides{longer, other} : PictureSides{other, longer};
}

PictureSides sides_of_area(const Aspect& aspect, double pixels, std::int64_t multiple) {
  const double ratio = static_cast<double>(aspect.width) / static_cast<double>(aspect.height);
  return {nearest_multiple(std::sqrt(pixels * ratio), multiple),
          nearest_multiple(std::sqrt(pixels / ratio), multiple)};
}

std::optional<PictureSides> largest_size(const FluxModel& model, const Workload& workload,
                                         const Budget& budget, const PlanOptions& options,
                                         const Aspect& aspect,
                                         const std::function<bool(const Plan&)>& accepts) {
  const auto multiple = 2 * model.vae.scale_factor();
  const auto sides = [&](std::int64_t units) {
    return sides_of(aspect, units * multiple, multiple);
  };
  const auto allowed = [&](std::int64_t units) {
    const auto size = sides(units);
    return units * multiple <= kMostSide && size.width * size.height <= kMostPixels;
  };
  const auto fits = [&](std::int64_t units) {
    if (!allowed(units)) return false;
    auto sized = workload;
    sized.width = sides(units).width;
    sized.height = sides(units).height;
    const auto plan = make_plan(model, sized, budget, options);
    return plan.fits && (!accepts || accepts(plan));
  };
  if (!fits(1)) return std::nullopt;
  std::int64_t low = 1, high = 2;  // low fits
  while (fits(high)) {
    low = high;
    high *= 2;
  }
  while (high - low > 1) {
    const auto middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return sides(low);
}

}  // namespace steadyflux
