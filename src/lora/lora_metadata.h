// The strengths that LoRA files keep outside of their tensors: what peft configured for each
// component, as diffusers writes it into a file's metadata under "lora_adapter_metadata", or as
// peft itself writes it into adapter_config.json beside the weights.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "lora/lora_file.h"

namespace steadyflux {

// peft: whose name is the layer's, or the layer's name after a '.'; "^name": the whole name.
using PeftPattern = std::vector<std::pair<std::string, double>>;

struct PeftConfig {
  double alpha = 0.0;
  PeftPattern alpha_pattern;
  bool use_rslora = false;  // alpha / sqrt(rank) instead of alpha / rank
  // Of LoKr alone: two whole matrices do not show it, and are divided by it all the same.
  double lokr_rank = 0.0;  // 0: not said
  PeftPattern lokr_rank_pattern;

  double alpha_of(const std::string& layer) const;
  double lokr_rank_of(const std::string& layer) const;
};

// Of the components that say "lora_alpha". `metadata` is a safetensors file's, `path` that file.
// Throws Error{kBadInput} for what is not as peft and diffusers write it.
std::map<LoraComponent, PeftConfig> read_peft_configs(
    const std::map<std::string, std::string>& metadata, const std::filesystem::path& path);

}  // namespace steadyflux
