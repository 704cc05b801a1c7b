// From what a request says of its sampling to the noise levels of its steps.
#pragma once

#include <cstdint>

#include "scheduler/flow_match_euler.h"
#include "steadyflux/sampling.h"

namespace steadyflux {

constexpr std::int64_t kMostSteps = 1000;
constexpr double kLargestShift = 1000;

// Throws Error{kUsage} that names the option.
void check_sampling(const Sampling& sampling);

// `own` and `guidance_embeds` are the model's. With sampling.sigmas there are as many steps as
// these; else Errors are those of flow_match_euler.h.
FlowMatchEulerSchedule make_schedule(const FlowMatchEulerConfig& own, bool guidance_embeds,
                                     const Sampling& sampling, std::int64_t num_inference_steps,
                                     std::int64_t image_seq_len);

// Times that the transformer is asked in a step; in the last one it is asked once.
std::int64_t evaluations_per_step(const Sampling& sampling);

// Whether a step needs what the one before it predicted.
bool looks_back(const Sampling& sampling);

}  // namespace steadyflux
