// What a tokenizer gives: ids padded or cut to a fixed length, and what the cut lost.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace steadyflux {

struct TokenizedPrompt {
  std::vector<std::int64_t> ids;  // exactly `length` of them, padding included
  std::int64_t num_tokens = 0;    // before padding and after the cut, special tokens included
  std::string lost_text;          // the text that did not fit; empty if everything did
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // `prompt` is UTF-8 (invalid bytes throw Error{kUsage}); may be empty.
  virtual TokenizedPrompt tokenize(const std::string& prompt, std::int64_t length) const = 0;
};

}  // namespace steadyflux
