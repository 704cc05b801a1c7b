// What a LoRA file holds, in numbers: for `inspect`, which needs no model to tell it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "lora/lora_file.h"

namespace steadyflux {

struct LoraSummary {
  std::string format;
  std::vector<std::string> kinds;  // "LoRA", "LoKr", "DoRA" (besides its kind)
  std::int64_t min_rank = 0;       // of the terms that have a rank; 0: none has
  std::int64_t max_rank = 0;
  std::map<std::string, std::size_t> components;  // "transformer" -> number of its targets
  std::vector<std::string> targets;               // "transformer.transformer_blocks.0.attn.to_q"
  std::vector<std::string> unmatched;             // keys of the file
};

LoraSummary summarize(const LoraFile& lora);

}  // namespace steadyflux
