// Coefficients are float32 after each operation, as diffusers' 0-dim tensors are.
#include "scheduler/dpm_solver.h"

#include <fmt/format.h>

#include <cmath>

#include "steadyflux/error.h"

namespace steadyflux {
namespace {

// Half of the logarithm of the signal-to-noise ratio; infinite at both ends of the way.
float lambda_of(float sigma) { return std::log(1.0f - sigma) - std::log(sigma); }

}  // namespace

FlowMatchEulerSchedule make_dpm_schedule(const FlowMatchEulerConfig& config,
                                         std::int64_t num_inference_steps,
                                         std::int64_t image_seq_len) {
  if (num_inference_steps < 1) {
    throw Error(ErrorKind::kUsage,
                fmt::format("the number of steps is {}, expected at least 1", num_inference_steps));
  }
  const double shift = shift_of(config, image_seq_len);
  const auto train_timesteps = static_cast<double>(config.num_train_timesteps);
  // numpy.linspace(1, 1 / num_train_timesteps, num_inference_steps + 1), from its end.
  const double last = 1.0 / train_timesteps;
  const double width = (last - 1.0) / static_cast<double>(num_inference_steps);
  FlowMatchEulerSchedule schedule;
  for (auto i = num_inference_steps; i > 0; --i) {
    const double alpha = i == num_inference_steps ? last : static_cast<double>(i) * width + 1.0;
    const double level = 1.0 - alpha;
    const double sigma = shift * level / (1.0 + (shift - 1.0) * level);
    schedule.sigmas.push_back(static_cast<float>(sigma));
    schedule.timesteps.push_back(static_cast<float>(std::trunc(sigma * train_timesteps)));
  }
  schedule.sigmas.push_back(0.0f);
  return schedule;
}

DpmCoefficients dpm_coefficients(std::span<const float> sigmas, std::size_t step, bool has_before) {
  const float now = sigmas[step], next = sigmas[step + 1];
  const float h = lambda_of(next) - lambda_of(now);
  DpmCoefficients result;
  result.sample = next / now;
  result.prediction = (1.0f - next) * (std::exp(-h) - 1.0f);
  if (!has_before || step == 0 || next == 0.0f) return result;
  const float h_before = lambda_of(now) - lambda_of(sigmas[step - 1]);
  result.difference = 1.0f / (h_before / h);
  return result;
}

}  // namespace steadyflux
