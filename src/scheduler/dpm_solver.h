// DPM-Solver++ (2M) as diffusers' DPMSolverMultistepScheduler has it for flow matching:
// algorithm_type dpmsolver++, solver_order 2, solver_type midpoint, flow_prediction,
// use_flow_sigmas. Its noise levels, and the numbers that a step multiplies tensors by.
#pragma once

#include <cstdint>
#include <span>

#include "scheduler/flow_match_euler.h"

namespace steadyflux {

// The levels run from 1 - 1 / num_train_timesteps down before the shift, in double; timesteps are
// cut to whole numbers. Errors as of make_schedule; shift_terminal has no meaning here.
FlowMatchEulerSchedule make_dpm_schedule(const FlowMatchEulerConfig& config,
                                         std::int64_t num_inference_steps,
                                         std::int64_t image_seq_len);

// latents' = sample * latents - prediction * p - 0.5 * prediction * difference * (p - p before),
// where p is what the finished picture is predicted to be.
struct DpmCoefficients {
  float sample = 0;
  float prediction = 0;
  float difference = 0;  // 0: a step of first order
};

// Of the step from sigmas[step] to sigmas[step + 1]. `has_before`: p of step - 1 is there. The last
// step, to 0, is of first order.
DpmCoefficients dpm_coefficients(std::span<const float> sigmas, std::size_t step, bool has_before);

}  // namespace steadyflux
