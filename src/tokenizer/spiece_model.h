// The parts of a sentencepiece model file (spiece.model, a protobuf message) that T5 needs: its
// pieces with scores and types, and the rules of normalisation.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tokenizer/unigram.h"

namespace steadyflux {

struct SpieceModel {
  std::vector<UnigramPiece> pieces;
  std::vector<std::string> control;  // control and user-defined symbols, in order
  std::string precompiled_charsmap;  // may be empty
};

// Error{kBadInput} if the file is missing, damaged, or not a unigram model.
SpieceModel read_spiece_model(const std::filesystem::path& file);

}  // namespace steadyflux
