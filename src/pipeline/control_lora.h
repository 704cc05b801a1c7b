// Control LoRAs: with one, FLUX.1-dev is a Depth or Canny. Torch-free: `plan` asks as well.
#pragma once

#include <span>

#include "config/model_config.h"
#include "steadyflux/pipeline.h"

namespace steadyflux {

// The model as these LoRAs make it: with more channels that go into the transformer, if one of them
// says so. Looks into their files; throws Error{kBadInput} if one is no LoRA, or is for more
// channels than Depth and Canny have.
FluxModel with_loras(const FluxModel& model, std::span<const LoraUse> loras);

}  // namespace steadyflux
