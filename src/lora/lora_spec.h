// What people type for a LoRA: "style.safetensors" or "style.safetensors:0.8".
#pragma once

#include <filesystem>
#include <string>

namespace steadyflux {

struct LoraSpec {
  std::filesystem::path path;
  double scale = 1.0;  // finite; negative is fine, it turns the style around
};

// A ":number" at the end is the scale, unless a file of the whole name exists. Does not look
// whether the path itself exists. Throws Error{kUsage} for an empty path or a scale that is no
// number.
LoraSpec parse_lora_spec(const std::string& text);

}  // namespace steadyflux
