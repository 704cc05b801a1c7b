#include "scheduler/sampling_schedule.h"

#include <fmt/format.h>

#include <string>
#include <vector>

#include "scheduler/dpm_solver.h"
#include "scheduler/other_programs.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw Error(ErrorKind::kUsage, what); }

void check_sigmas(const std::vector<double>& sigmas) {
  if (sigmas.size() > static_cast<std::size_t>(kMostSteps)) {
    refuse(fmt::format("--sigmas: {} values, {} at most are taken", sigmas.size(), kMostSteps));
  }
  float before = 2;
  for (const double sigma : sigmas) {
    const auto level = static_cast<float>(sigma);
    if (!(level >= 0 && level <= 1)) {
      refuse(fmt::format("--sigmas: {} is not above 0, up to 1", sigma));
    }
    if (level == 0) refuse("--sigmas: the 0 at the end is added; leave it out");
    if (level >= before) {
      refuse(fmt::format("--sigmas: {} is not below {}, which stands before it", level, before));
    }
    before = level;
  }
}

}  // namespace

void check_sampling(const Sampling& sampling) {
  const auto& [scheduler, compat, sigmas, shift, cache_threshold] = sampling;
  if (scheduler != "euler" && scheduler != "heun" && scheduler != "dpmpp_2m") {
    refuse(fmt::format("--scheduler {}: expected euler, heun or dpmpp_2m", scheduler));
  }
  if (compat != "diffusers" && compat != "comfyui" && compat != "bfl") {
    refuse(fmt::format("--compat {}: expected diffusers, comfyui or bfl", compat));
  }
  if (scheduler == "dpmpp_2m" && compat != "diffusers") {
    refuse(
        fmt::format("--scheduler dpmpp_2m with --compat {}: it is diffusers' and no other "
                    "program's; leave --compat out, or use euler or heun",
                    compat));
  }
  if (shift && !(*shift > 0 && *shift <= kLargestShift)) {
    refuse(fmt::format("--shift {}: expected a number above 0, up to {}", *shift, kLargestShift));
  }
  if (!(cache_threshold >= 0 && cache_threshold <= 1)) {
    refuse(fmt::format("--cache-threshold {}: expected a number from 0 (never) to 1",
                       cache_threshold));
  }
  check_sigmas(sigmas);
}

FlowMatchEulerSchedule make_schedule(const FlowMatchEulerConfig& own, bool guidance_embeds,
                                     const Sampling& sampling, std::int64_t num_inference_steps,
                                     std::int64_t image_seq_len) {
  auto config = scheduler_config_of(sampling.compat, own, guidance_embeds);
  if (sampling.shift) {
    config.use_dynamic_shifting = false;
    config.shift = *sampling.shift;
  }
  if (!sampling.sigmas.empty()) {
    std::vector<float> levels;
    for (const double sigma : sampling.sigmas) levels.push_back(static_cast<float>(sigma));
    auto schedule = make_schedule(config, levels, image_seq_len);
    for (std::size_t i = 1; i < schedule.sigmas.size(); ++i) {
      if (schedule.sigmas[i] < schedule.sigmas[i - 1]) continue;
      refuse(fmt::format("--sigmas: {} and {} are one noise level after the shift; leave one out",
                         levels[i - 1], levels[i]));
    }
    return schedule;
  }
  if (sampling.scheduler == "dpmpp_2m") {
    return make_dpm_schedule(config, num_inference_steps, image_seq_len);
  }
  const auto levels = levels_of(sampling.compat, num_inference_steps, guidance_embeds);
  return levels ? make_schedule(config, *levels, image_seq_len)
                : make_schedule(config, num_inference_steps, image_seq_len);
}

std::int64_t evaluations_per_step(const Sampling& sampling) {
  return sampling.scheduler == "heun" ? 2 : 1;
}

bool looks_back(const Sampling& sampling) { return sampling.scheduler == "dpmpp_2m"; }

}  // namespace steadyflux
