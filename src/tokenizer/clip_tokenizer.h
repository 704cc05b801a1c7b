// CLIP's byte-level BPE tokenizer, equal to transformers' CLIPTokenizer (5.23).
#pragma once

#include <filesystem>
#include <memory>

#include "tokenizer/tokenizer.h"

namespace steadyflux {

// Reads vocab.json + merges.txt, or a tokenizer.json alone, from the folder `tokenizer/` of a
// pipeline. `vocab_size` is the encoder's: an id at or above it is Error{kBadInput}.
std::unique_ptr<Tokenizer> load_clip_tokenizer(const std::filesystem::path& folder,
                                               std::int64_t vocab_size);

}  // namespace steadyflux
