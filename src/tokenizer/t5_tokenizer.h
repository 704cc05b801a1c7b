// T5's sentencepiece unigram tokenizer, equal to transformers' T5TokenizerFast (5.23).
#pragma once

#include <filesystem>
#include <memory>

#include "tokenizer/tokenizer.h"

namespace steadyflux {

// Reads spiece.model, or a tokenizer.json alone, from the folder `tokenizer_2/` of a pipeline.
// `vocab_size` is the encoder's: an id at or above it is Error{kBadInput}.
std::unique_ptr<Tokenizer> load_t5_tokenizer(const std::filesystem::path& folder,
                                             std::int64_t vocab_size);

}  // namespace steadyflux
