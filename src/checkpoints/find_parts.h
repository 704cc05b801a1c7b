// Looks for the parts that a single-file checkpoint does not hold, where people keep them.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "weights/key_names.h"

namespace steadyflux {

// Where to look, in this order, for what belongs to a file: each a folder that may hold folders of
// the diffusers layout (vae/, text_encoder/, ...) or files.
std::vector<std::filesystem::path> places_beside(const std::filesystem::path& file);

// The first place's component folder or file, told by what it holds. Throws Error{kBadInput} if a
// place has several files that would do.
std::optional<std::filesystem::path> find_part(Component component,
                                               const std::vector<std::filesystem::path>& places);

// The first place's folder "tokenizer" or "tokenizer_2".
std::optional<std::filesystem::path> find_tokenizer(
    const std::string& name, const std::vector<std::filesystem::path>& places);

}  // namespace steadyflux
