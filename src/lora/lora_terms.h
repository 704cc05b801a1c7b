// From the tensors that share a stem to the terms they describe: partners, shapes and scales are
// checked here.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lora/lora_file.h"
#include "lora/lora_keys.h"

namespace steadyflux {

struct LoraTensor {
  std::string key;
  TensorView view;
};

using LoraGroup = std::map<LoraRole, LoraTensor>;

// The terms of one stem, for the whole of its matrix: no `rows`, and `scale` as the file's own
// alpha says, if there is one. No terms if the group has no weights (an alpha alone).
struct LoraGroupTerms {
  std::vector<LoraTerm> terms;
  std::optional<double> alpha;
};

// Throws Error{kBadInput}.
LoraGroupTerms read_lora_group(const LoraGroup& group, const std::string& stem,
                               const std::filesystem::path& path);

}  // namespace steadyflux
