// What ComfyUI and Black Forest Labs' own program do otherwise than diffusers before the first
// step: --compat. Which of the two FLUX.1 it is they tell by the name or the guidance embedding;
// here it is always the latter (dev has one, schnell has none).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/model_config.h"

namespace steadyflux {

// The shift that `compat` would give the model, as a scheduler's configuration; for diffusers
// `own`.
FlowMatchEulerConfig scheduler_config_of(const std::string& compat, const FlowMatchEulerConfig& own,
                                         bool guidance_embeds);

// Noise levels before the shift, one for each step. Nothing for diffusers, which has them evenly
// spaced from 1 to 1 / n.
std::optional<std::vector<float>> levels_of(const std::string& compat,
                                            std::int64_t num_inference_steps, bool guidance_embeds);

// T5 tokens that `compat` pads a prompt to; nothing for diffusers, where models say it.
std::optional<std::int64_t> sequence_length_of(const std::string& compat, bool guidance_embeds);

}  // namespace steadyflux
