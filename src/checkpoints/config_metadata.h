// A component's config.json inside a weight file's metadata. Single files say nothing of what
// tensors do not show (RoPE axes, the activation of T5); what `quantize` writes keeps it here where
// it differs from what infer_config.h would take.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "weights/key_names.h"

namespace steadyflux {

// "steadyflux.config.transformer": named after the component's folder.
std::string config_metadata_key(Component component);

// The text of that entry of `metadata` (Checkpoint::metadata()); nothing if there is none, or if it
// is no text. What the text holds is not looked at.
std::optional<std::string> config_in_metadata(const nlohmann::json& metadata, Component component);

}  // namespace steadyflux
