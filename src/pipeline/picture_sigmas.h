// The noise levels that a request's pictures go through.
#pragma once

#include <vector>

#include "pipeline/chunk.h"

namespace steadyflux {

// Before the first step that is made, after it, ..., 0. Throws as make_schedule does.
std::vector<float> sigmas_to_do(const FluxModel& model, const Request& request);

}  // namespace steadyflux
