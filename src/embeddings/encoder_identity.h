// Which text encoders and tokenizers a model has, as a short name: embeddings made by others of the
// same name can be used in place of new ones.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace steadyflux {

// 16 hexadecimal digits over what the folders text_encoder, text_encoder_2, tokenizer and
// tokenizer_2 of a model hold, as base/file_identity.h samples it; the rest of the model does not
// matter. `cache_folder`: see kept_identity. Throws Error: kBadInput if a folder is missing, kIo if
// a file cannot be read.
std::string encoder_identity(const std::filesystem::path& model_root,
                             const std::filesystem::path& cache_folder = {});

// files_identity(). With a folder of the cache (embeds_cache.h) it is kept there together with the
// files' sizes and times, and while those are the same no file is opened. Never fails because of
// the cache.
std::string kept_identity(const std::filesystem::path& root,
                          const std::vector<std::filesystem::path>& files,
                          const std::filesystem::path& cache_folder);

// Removes what kept_identity keeps. Does not throw.
void forget_encoder_identities(const std::filesystem::path& cache_folder);

}  // namespace steadyflux
