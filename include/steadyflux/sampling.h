// How noise becomes a picture, beyond the number of steps.
#pragma once

#include <compare>
#include <optional>
#include <string>
#include <vector>

namespace steadyflux {

// Checked by check_sampling (scheduler/sampling_schedule.h).
struct Sampling {
  std::string scheduler = "euler";   // how a step is made: euler, heun, dpmpp_2m
  std::string compat = "diffusers";  // whose noise levels: diffusers, comfyui, bfl
  // Noise levels of the steps before the shift, falling, above 0 to 1, in place of evenly spaced
  // ones: one for each step.
  std::vector<double> sigmas = {};
  // Above 0, in place of the model's: s -> shift * s / (1 + (shift - 1) * s).
  std::optional<double> shift = {};
  // Step caching: a pass through the transformer whose first block changes the picture by no more
  // than this beside the last whole pass leaves the other blocks out. 0 to 1; 0: never.
  double cache_threshold = 0;

  auto operator<=>(const Sampling&) const = default;
};

}  // namespace steadyflux
