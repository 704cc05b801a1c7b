// The LoRAs of a request, opened, checked against the model and shared out to its components.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "config/model_config.h"
#include "nn/lora_layers.h"
#include "steadyflux/pipeline.h"
#include "weights/key_names.h"

namespace steadyflux {

struct LoraSet {
  FluxModel model;  // as these LoRAs make it: control_lora.h
  LoraLayers text_encoder, text_encoder_2, transformer;
  // What the user should hear of: keys that matched nothing.
  std::vector<std::string> warnings;

  // Null for components without any.
  const LoraLayers* find(Component component) const;
};

// Throws Error{kBadInput} if a file is no LoRA, fits nothing of the model, or does not fit in size.
std::shared_ptr<const LoraSet> open_loras(const FluxModel& model, const std::vector<LoraUse>& uses);

}  // namespace steadyflux
