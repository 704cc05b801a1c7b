// Every value is a float32 that is rounded after each operation, in the order in which numpy does
// it: the sigmas become float32 before the shift, and Python's scalars are rounded to float32 when
// they meet such an array. The file is compiled without contraction to fused multiply-adds.
#include "scheduler/flow_match_euler.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "steadyflux/error.h"

namespace steadyflux {
namespace {

// numpy.linspace(1, 1 / n, n), computed in double, then as float32.
std::vector<float> linspace_to_zero(std::int64_t n) {
  std::vector<float> sigmas;
  const double last = 1.0 / static_cast<double>(n);
  const double step = n > 1 ? (last - 1.0) / static_cast<double>(n - 1) : 0.0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double offset = static_cast<double>(i) * step;
    const bool is_last = n > 1 && i == n - 1;
    sigmas.push_back(static_cast<float>(is_last ? last : offset + 1.0));
  }
  return sigmas;
}

// s / (s + (1 / sigma - 1)): the dynamic shift, with s = exp(mu) or s = mu.
float shift_dynamic(float s, float sigma) {
  const float inverse = 1.0f / sigma;
  const float odds = inverse - 1.0f;
  return s / (s + odds);
}

// shift * sigma / (1 + (shift - 1) * sigma)
float shift_static(double shift, float sigma) {
  const float numerator = static_cast<float>(shift) * sigma;
  const float product = static_cast<float>(shift - 1.0) * sigma;
  return numerator / (1.0f + product);
}

// Stretches so that the last sigma becomes `terminal`.
void stretch_to_terminal(double terminal, std::vector<float>& sigmas) {
  const float scale = (1.0f - sigmas.back()) / static_cast<float>(1.0 - terminal);
  for (float& sigma : sigmas) {
    const float stretched = (1.0f - sigma) / scale;
    sigma = 1.0f - stretched;
  }
}

// The s of shift_dynamic. mu is a straight line over the number of tokens that diffusers does not
// clamp: far out, its exponential is infinite (the schedule is NaN), or mu itself is negative (the
// schedule rises).
double dynamic_shift(const FlowMatchEulerConfig& config, std::int64_t image_seq_len) {
  const double mu = calculate_shift(image_seq_len, config);
  const double s = config.time_shift_type == "linear" ? mu : std::exp(mu);
  if (!std::isfinite(static_cast<float>(s)) || static_cast<float>(s) <= 0) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("this model's scheduler shifts the noise of a picture of {} tokens by "
                            "{}, expected a finite number above 0; check base_shift, max_shift, "
                            "base_image_seq_len and max_image_seq_len in its configuration",
                            image_seq_len, s));
  }
  return s;
}

}  // namespace

double shift_of(const FlowMatchEulerConfig& config, std::int64_t image_seq_len) {
  return config.use_dynamic_shifting ? dynamic_shift(config, image_seq_len) : config.shift;
}

double calculate_shift(std::int64_t image_seq_len, const FlowMatchEulerConfig& config) {
  const double m = (config.max_shift - config.base_shift) /
                   static_cast<double>(config.max_image_seq_len - config.base_image_seq_len);
  const double bm = m * static_cast<double>(config.base_image_seq_len);
  const double b = config.base_shift - bm;
  const double product = static_cast<double>(image_seq_len) * m;
  return product + b;
}

FlowMatchEulerSchedule make_schedule(const FlowMatchEulerConfig& config,
                                     std::int64_t num_inference_steps, std::int64_t image_seq_len) {
  if (num_inference_steps < 1) {
    throw Error(ErrorKind::kUsage,
                fmt::format("the number of steps is {}, expected at least 1", num_inference_steps));
  }
  return make_schedule(config, linspace_to_zero(num_inference_steps), image_seq_len);
}

FlowMatchEulerSchedule make_schedule(const FlowMatchEulerConfig& config, std::vector<float> levels,
                                     std::int64_t image_seq_len) {
  FlowMatchEulerSchedule schedule;
  schedule.sigmas = std::move(levels);
  if (config.use_dynamic_shifting) {
    const float s = static_cast<float>(dynamic_shift(config, image_seq_len));
    for (float& sigma : schedule.sigmas) sigma = shift_dynamic(s, sigma);
  } else {
    for (float& sigma : schedule.sigmas) sigma = shift_static(config.shift, sigma);
  }
  if (config.shift_terminal.value_or(0) != 0) {
    if (schedule.sigmas.back() == 1.0f) {
      // Only one sigma, or a shift so large that all are 1: nothing to stretch, it would give NaN.
      throw Error(ErrorKind::kUsage,
                  "this model's scheduler has a shift_terminal, which needs at "
                  "least 2 steps; ask for more steps");
    }
    stretch_to_terminal(*config.shift_terminal, schedule.sigmas);
  }
  const auto train_timesteps = static_cast<float>(config.num_train_timesteps);
  for (const float sigma : schedule.sigmas) schedule.timesteps.push_back(sigma * train_timesteps);
  schedule.sigmas.push_back(0.0f);
  return schedule;
}

}  // namespace steadyflux
