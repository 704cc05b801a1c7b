// Added tokens: strings such as <|endoftext|> or <extra_id_0> that a tokenizer splits off before it
// looks at the rest of the prompt. Which ones there are, and with which flags, is gathered from the
// files of the folder in the order in which transformers 5.23 does it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace steadyflux {

struct AddedToken {
  std::string content;
  std::string pattern{};     // what is looked for: the content, normalised if `normalized`
  bool normalized = false;   // looked for after normalisation, not before
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // takes the white space behind it along
  bool single_word = false;  // not inside a word
  std::int64_t id = -1;
};

// A stretch of text; `id` is that of an added token, or -1 for text that is still to be tokenized.
struct TextSpan {
  std::size_t begin = 0;
  std::size_t end = 0;
  std::int64_t id = -1;
};

class AddedTokens {
 public:
  // Named tokens ("eos_token", ...) start with the class's `defaults`; the files override them.
  // `extra` is added last. Reads tokenizer_config.json, special_tokens_map.json, added_tokens.json
  // and tokenizer.json, each if it is there. Error{kBadInput} if they are damaged.
  AddedTokens(const std::filesystem::path& folder, std::map<std::string, std::string> defaults,
              const std::vector<std::string>& extra);

  // Normalises the patterns of the tokens that are looked for in normalised text.
  void normalize_patterns(const std::function<std::string(const std::string&)>& normalize);

  // Gives every token its id: that of the same string in the model's vocabulary, or the next one
  // behind it (`model_size` is the size of the vocabulary).
  void assign_ids(const std::function<std::optional<std::int64_t>(const std::string&)>& model_id,
                  std::int64_t model_size);

  const std::string& name(const std::string& role) const;  // the string of "eos_token", ...
  std::int64_t id(const std::string& role) const;
  const std::vector<AddedToken>& tokens() const { return tokens_; }

  // Cuts `text` at the tokens whose flag `normalized` is the given one, leftmost longest first. The
  // spans cover the text from left to right.
  std::vector<TextSpan> split(std::string_view text, bool normalized) const;

 private:
  void add(const std::filesystem::path& folder, AddedToken token);
  const AddedToken* match(std::string_view text, std::size_t pos, bool normalized) const;

  std::vector<AddedToken> tokens_;
  std::map<std::string, std::string> named_;
};

}  // namespace steadyflux
