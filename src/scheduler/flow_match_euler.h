// The schedule of FLUX.1 (diffusers: FlowMatchEulerDiscreteScheduler, pipeline_flux.py).
// Pure arithmetic, bit-equal to diffusers' numpy/torch float32 where it matters.
#pragma once

#include <cstdint>
#include <vector>

#include "config/model_config.h"

namespace steadyflux {

// mu of the exponential time shift for a picture of `image_seq_len` packed tokens (not clamped).
double calculate_shift(std::int64_t image_seq_len, const FlowMatchEulerConfig& config);

// What the schedule of such a picture is shifted by: s -> shift * s / (1 + (shift - 1) * s). Throws
// Error{kBadInput} if the model's shift is not a positive number.
double shift_of(const FlowMatchEulerConfig& config, std::int64_t image_seq_len);

struct FlowMatchEulerSchedule {
  std::vector<float> sigmas;     // num_inference_steps + 1 values, falling, the last is 0
  std::vector<float> timesteps;  // num_inference_steps values: sigma * num_train_timesteps
};

// Throws Error: kUsage unless num_inference_steps >= 1, kBadInput if the model's shift for a
// picture of this size is not a positive number.
FlowMatchEulerSchedule make_schedule(const FlowMatchEulerConfig& config,
                                     std::int64_t num_inference_steps, std::int64_t image_seq_len);

// The same with levels of the caller's own before the shift: falling, above 0 to 1.
FlowMatchEulerSchedule make_schedule(const FlowMatchEulerConfig& config, std::vector<float> levels,
                                     std::int64_t image_seq_len);

}  // namespace steadyflux
