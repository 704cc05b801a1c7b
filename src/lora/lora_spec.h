// What people type for a LoRA: "style.safetensors" or "style.safetensors:0.8".
#pragma once

#include <string>

#include "base/scaled_file.h"

namespace steadyflux {

using LoraSpec = ScaledFile;  // a negative scale turns the style around

inline LoraSpec parse_lora_spec(const std::string& text) {
  return parse_scaled_file(text, "LoRA", "style.safetensors:0.8");
}

}  // namespace steadyflux
