// What a file of weights holds, for `inspect`: told from its header, as JSON.
#pragma once

#include <filesystem>

#include "cli/json_output.h"

namespace steadyflux::cli {

// A .safetensors or .gguf file, or a component folder. `with_tensors`: also lists the tensors.
// {"kind": "transformer", "text_encoder", "text_encoder_2", "vae", "all-in-one", "lora",
// "embeddings", "other" or "unknown"; "format", "description", "tensors", "parameters", "bytes",
// "dtypes": {"BF16": {"tensors", "parameters", "bytes"}, ...}, "metadata", ...}
// Packed tensors count as the values they stand for. Throws Error{kBadInput}.
Json inspect_weights(const std::filesystem::path& path, bool with_tensors);

}  // namespace steadyflux::cli
