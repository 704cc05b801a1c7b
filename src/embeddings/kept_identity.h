// Which files something was made from, as a short name that is kept: embeddings made by encoders
// and tokenizers of the same name can be used in place of new ones.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/file_identity.h"

namespace steadyflux {

// files_identity(). With a folder of the cache (embeds_cache.h) it is kept there together with the
// files' sizes and times, and while those are the same no file is opened. Never fails because of
// the cache.
std::string kept_identity(const std::vector<NamedFile>& files,
                          const std::filesystem::path& cache_folder);

// Removes what kept_identity keeps. Does not throw.
void forget_identities(const std::filesystem::path& cache_folder);

}  // namespace steadyflux
