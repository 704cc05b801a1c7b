// Puts together what quantised checkpoints keep apart: weights, and beside each, under names with a
// suffix, its scales and code tables. ComfyUI's scaled fp8, bitsandbytes' 4-bit formats and
// LLM.int8, and fp8 and GGML blocks, which need nothing beside them.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "weights/stored_tensor.h"

namespace steadyflux {

// Every tensor of the files with its companions, under its own name; companions are gone. Throws
// Error{kBadInput} naming file and tensor if the parts do not fit together.
std::map<std::string, StoredRows> assemble_packed(const std::map<std::string, TensorView>& tensors);

// Rows [begin, end) of a matrix (or values of a vector). Throws Error{kBadInput} if a packed
// tensor cannot be cut there.
StoredRows cut_rows(const StoredRows& rows, std::int64_t begin, std::int64_t end,
                    const std::string& name);

}  // namespace steadyflux
