// The noise levels that a request's pictures go through.
#pragma once

#include <vector>

#include "pipeline/chunk.h"
#include "scheduler/sampling_schedule.h"

namespace steadyflux {

// Of all steps, for a picture of `image_len` packed tokens. Throws as make_schedule does.
FlowMatchEulerSchedule schedule_of(const FluxModel& model, const Sampling& sampling,
                                   std::int64_t num_inference_steps, std::int64_t image_len);

// Before the first step that is made, after it, ..., 0. Throws as make_schedule does.
std::vector<float> sigmas_to_do(const FluxModel& model, const Request& request);

}  // namespace steadyflux
