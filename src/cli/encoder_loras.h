// Which LoRAs embeddings were made with: as a file of embeddings records it, and as it is compared
// when the file is used.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "steadyflux/pipeline.h"

namespace steadyflux::cli {

// Those of `loras` that change a text encoder, whatever their files are called and in whatever
// order: "none", or the identity and the strength of each, "0123456789abcdef:0.8,...". Identities
// are kept in `cache_folder` as kept_identity() does. Throws Error{kBadInput} for what is no LoRA.
std::string encoder_loras(const std::vector<LoraUse>& loras,
                          const std::filesystem::path& cache_folder);

}  // namespace steadyflux::cli
