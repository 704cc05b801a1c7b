#include "scheduler/other_programs.h"

#include <cmath>

namespace steadyflux {
namespace {

constexpr double kComfyuiMu = 1.15;               // of dev, at any size
constexpr std::int64_t kComfyuiDevTable = 10000;  // levels that "simple" picks from
constexpr std::int64_t kComfyuiFlowTable = 1000;  // the same for schnell
constexpr std::int64_t kComfyuiLeastTokens = 256;

// ComfyUI's "simple": entries of a table of evenly spaced levels, at places rounded down.
std::vector<float> comfyui_levels(std::int64_t steps, std::int64_t table) {
  const double stride = static_cast<double>(table) / static_cast<double>(steps);
  std::vector<float> levels;
  for (std::int64_t i = 0; i < steps; ++i) {
    const auto passed = static_cast<std::int64_t>(static_cast<double>(i) * stride);
    levels.push_back(static_cast<float>(table - passed) / static_cast<float>(table));
  }
  return levels;
}

// Evenly spaced from 1, in float32.
std::vector<float> bfl_levels(std::int64_t steps) {
  std::vector<float> levels;
  for (std::int64_t i = 0; i < steps; ++i) {
    levels.push_back(1.0f - static_cast<float>(i) / static_cast<float>(steps));
  }
  return levels;
}

}  // namespace

FlowMatchEulerConfig scheduler_config_of(const std::string& compat, const FlowMatchEulerConfig& own,
                                         bool guidance_embeds) {
  if (compat == "diffusers") return own;
  FlowMatchEulerConfig config;  // its defaults are BFL's line of mu, and no shift
  if (!guidance_embeds) return config;
  if (compat == "bfl") config.use_dynamic_shifting = true;
  if (compat == "comfyui") config.shift = std::exp(kComfyuiMu);
  return config;
}

std::optional<std::vector<float>> levels_of(const std::string& compat,
                                            std::int64_t num_inference_steps,
                                            bool guidance_embeds) {
  if (compat == "comfyui") {
    return comfyui_levels(num_inference_steps,
                          guidance_embeds ? kComfyuiDevTable : kComfyuiFlowTable);
  }
  if (compat == "bfl") return bfl_levels(num_inference_steps);
  return std::nullopt;
}

std::optional<std::int64_t> sequence_length_of(const std::string& compat, bool guidance_embeds) {
  if (compat == "comfyui") return kComfyuiLeastTokens;
  if (compat == "bfl") return guidance_embeds ? 512 : 256;
  return std::nullopt;
}

}  // namespace steadyflux
