// The stages of a progressive picture: their sizes, and the request that each of them is.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "memory/largest_size.h"
#include "steadyflux/pipeline.h"

namespace steadyflux {

// A stage that would make a picture by less than this larger is left out.
constexpr double kLeastGrowth = 1.25;

// Smallest first: longer sides of base, 2 base, 4 base ... in multiples of `multiple`, and at last
// the request's own size. What comes before a size is the same for whatever comes after it. Only
// the request's size if it is not progressive.
std::vector<PictureSides> stage_sizes(const Request& request, std::int64_t multiple);

// One picture of the request in this size, made from `before` if that is not null.
Request stage_request(const Request& request, const PictureSides& size,
                      std::shared_ptr<const Image> before);

// The last stage, which takes most memory, as a plan sees it; the request itself if it is not
// progressive. Its picture to begin from cannot be loaded.
Request last_stage(const Request& request, std::int64_t multiple);
std::vector<Request> last_stages(std::span<const Request> requests, std::int64_t multiple);

}  // namespace steadyflux
