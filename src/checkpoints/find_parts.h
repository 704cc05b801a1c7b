// Looks for the parts that a single-file checkpoint does not hold, where people keep them.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "weights/key_names.h"

namespace steadyflux {

// The files in a folder whose names are those of weights (.safetensors, .sft, .gguf), sorted.
std::vector<std::filesystem::path> weight_files_in(const std::filesystem::path& folder);

// A folder that may hold folders of the diffusers layout (vae/, text_encoder/, ...) or files.
struct Place {
  std::filesystem::path folder;
  bool in_cache = false;  // a snapshot of the Hugging Face cache
};

// Where to look, in this order, for what belongs to a file. Pipelines of other kinds are left out:
// their parts have the same names and shapes, and other weights and words.
std::vector<Place> places_beside(const std::filesystem::path& file);

// The first place's component folder or file, told by what it holds. Throws Error{kBadInput} if a
// place beside the file has several files that would do; in the cache such a place is passed over.
std::optional<std::filesystem::path> find_part(Component component,
                                               const std::vector<Place>& places);

// The first place's folder "tokenizer" or "tokenizer_2".
std::optional<std::filesystem::path> find_tokenizer(const std::string& name,
                                                    const std::vector<Place>& places);

}  // namespace steadyflux
