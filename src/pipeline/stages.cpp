#include "pipeline/stages.h"

#include <algorithm>

#include "image/resample.h"

namespace steadyflux {
namespace {

// The picture before, one that is resized in one direction only, and the result.
std::int64_t resizing_bytes(const PictureSides& from, const PictureSides& to) {
  return 3 * (from.width * from.height + to.width * from.height + to.width * to.height);
}

Request in_size(const Request& request, const PictureSides& size) {
  Request stage = request;
  stage.width = size.width;
  stage.height = size.height;
  stage.progressive.reset();
  return stage;
}

Request begun_from(const Request& request, const PictureSides& before, const PictureSides& size,
                   std::function<InitImage::Pixels()> load) {
  auto stage = in_size(request, size);
  auto init = std::make_shared<InitImage>();
  init->load = std::move(load);
  init->load_bytes = resizing_bytes(before, size);
  init->strength = request.progressive->strength;
  stage.init_image = std::move(init);
  return stage;
}

}  // namespace

std::vector<PictureSides> stage_sizes(const Request& request, std::int64_t multiple) {
  std::vector<PictureSides> sizes;
  const auto longer = std::max(request.width, request.height);
  if (request.progressive) {
    const auto grows = [longer](std::int64_t side) {
      return static_cast<double>(side) * kLeastGrowth < static_cast<double>(longer);
    };
    for (auto side = request.progressive->base; grows(side); side *= 2) {
      sizes.push_back(sides_of({request.width, request.height}, side, multiple));
    }
  }
  sizes.push_back({request.width, request.height});
  return sizes;
}

Request stage_request(const Request& request, const PictureSides& size,
                      std::shared_ptr<const Image> before) {
  if (!before) return in_size(request, size);
  return begun_from(request, {before->width, before->height}, size, [before, size] {
    return InitImage::Pixels{resample_lanczos(*before, size.width, size.height), {}};
  });
}

Request last_stage(const Request& request, std::int64_t multiple) {
  const auto sizes = stage_sizes(request, multiple);
  if (sizes.size() < 2) return in_size(request, sizes.back());
  return begun_from(request, sizes[sizes.size() - 2], sizes.back(), {});
}

std::vector<Request> last_stages(std::span<const Request> requests, std::int64_t multiple) {
  std::vector<Request> stages;
  for (const auto& request : requests) stages.push_back(last_stage(request, multiple));
  return stages;
}

}  // namespace steadyflux
