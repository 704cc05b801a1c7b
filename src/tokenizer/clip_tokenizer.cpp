// The reference builds the same pipeline whatever files it finds: added tokens are split off; NFC,
// white space to one blank, lower case; a regular expression cuts the rest into special strings,
// contractions, runs of letters, single digits and runs of anything else; each is byte-pair
// encoded.
#include "tokenizer/clip_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/json.h"
#include "base/utf8.h"
#include "steadyflux/error.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/tokenizer_files.h"
#include "tokenizer/unicode.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kStart = "<|startoftext|>";
constexpr const char* kEnd = "<|endoftext|>";

std::unordered_map<std::string, std::int64_t> parse_vocab(const fs::path& file,
                                                          const json& object) {
  if (!object.is_object()) {
    bad_tokenizer_file(file, "the vocabulary is not an object of token: id");
  }
  std::unordered_map<std::string, std::int64_t> vocab;
  vocab.reserve(object.size());
  for (const auto& [token, id] : object.items()) {
    if (!id.is_number_integer()) {
      bad_tokenizer_file(file, "an id of the vocabulary is not an integer");
    }
    vocab.emplace(token, id.get<std::int64_t>());
  }
  return vocab;
}

// "left right", separated by exactly one blank.
Bpe::Merge parse_merge(const fs::path& file, std::string_view line, std::size_t number) {
  const std::size_t blank = line.find(' ');
  if (blank == std::string_view::npos || line.find(' ', blank + 1) != std::string_view::npos) {
    bad_tokenizer_file(file, fmt::format("merge {} is not two tokens with a blank", number));
  }
  return {line.substr(0, blank), line.substr(blank + 1)};
}

std::vector<Bpe::Merge> parse_merges_text(const fs::path& file, std::string_view text) {
  std::vector<Bpe::Merge> merges;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (!line.empty() && line.back() == '\r') {
      line.remove_suffix(1);
    }
    if (line.substr(0, 8) != "#version") {
      merges.push_back(parse_merge(file, line, merges.size() + 1));
    }
  }
  return merges;
}

std::vector<Bpe::Merge> parse_merges_json(const fs::path& file, const json& list) {
  if (!list.is_array()) {
    bad_tokenizer_file(file, "\"merges\" is not a list");
  }
  std::vector<Bpe::Merge> merges;
  merges.reserve(list.size());
  for (const json& merge : list) {
    if (merge.is_string()) {
      merges.push_back(parse_merge(file, merge.get_ref<const std::string&>(), merges.size() + 1));
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      merges.emplace_back(merge[0].get_ref<const std::string&>(),
                          merge[1].get_ref<const std::string&>());
    } else {
      bad_tokenizer_file(file, fmt::format("merge {} is not two tokens", merges.size() + 1));
    }
  }
  return merges;
}

// tokenizer.json counts where both forms are there, as in the reference.
Bpe load_bpe(const fs::path& folder, const std::string& unk_token) {
  const fs::path tokenizer_file = folder / "tokenizer.json";
  if (fs::exists(tokenizer_file)) {
    const json tokenizer = read_json_object(tokenizer_file);
    const auto model = tokenizer.find("model");
    if (model == tokenizer.end() || !model->is_object() || !model->contains("vocab") ||
        !model->contains("merges")) {
      bad_tokenizer_file(tokenizer_file, "no BPE \"model\" with \"vocab\" and \"merges\"");
    }
    return Bpe(parse_vocab(tokenizer_file, (*model)["vocab"]),
               parse_merges_json(tokenizer_file, (*model)["merges"]), unk_token, tokenizer_file);
  }
  const fs::path vocab_file = folder / "vocab.json";
  const fs::path merges_file = folder / "merges.txt";
  auto vocab = parse_vocab(vocab_file, read_json_object(vocab_file));
  const std::string text = read_text_file(merges_file);
  return Bpe(std::move(vocab), parse_merges_text(merges_file, text), unk_token, merges_file);
}

bool starts_with(std::string_view text, std::size_t pos, std::string_view prefix) {
  return text.compare(pos, prefix.size(), prefix) == 0;
}

// The end of the piece of normalised text that begins at `pos`, which is not white space:
//   <|startoftext|> | <|endoftext|> | 's | 't | 're | 've | 'm | 'll | 'd
//   | letters | one digit | anything else but white space
// The two special strings fall apart again into "<|", the word and "|>" (ByteLevel's own cut); what
// follows "<|" is then found here by itself.
std::size_t piece_end(std::string_view text, std::size_t pos) {
  if (starts_with(text, pos, kStart) || starts_with(text, pos, kEnd)) {
    return pos + 2;
  }
  for (const std::string_view contraction : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}) {
    if (starts_with(text, pos, contraction)) {
      return pos + contraction.size();
    }
  }
  const auto kind = [](char32_t c) {
    return is_white_space(c) ? 0 : is_letter(c) ? 1 : is_number(c) ? 2 : 3;
  };
  const int first = kind(next_code_point(text, pos));
  if (first == 2) {
    return pos;
  }
  while (pos < text.size()) {
    std::size_t next = pos;
    if (kind(next_code_point(text, next)) != first) {
      break;
    }
    pos = next;
  }
  return pos;
}

class ClipTokenizer : public Tokenizer {
 public:
  ClipTokenizer(const fs::path& folder, std::int64_t vocab_size)
      : added_(
            folder,
            {{"bos_token", kStart}, {"eos_token", kEnd}, {"unk_token", kEnd}, {"pad_token", kEnd}},
            {}),
        bpe_(load_bpe(folder, added_.name("unk_token"))),
        vocab_size_(vocab_size) {
    added_.normalize_patterns([](const std::string& text) { return lower_case(nfc(text)); });
    added_.assign_ids([&](const std::string& token) { return bpe_.id(token); }, bpe_.vocab_size());
    for (const char* role : {"bos_token", "eos_token"}) {
      // The reference would give it a new id, whose embedding means something else.
      if (!bpe_.id(added_.name(role))) {
        bad_tokenizer_file(folder, fmt::format("the vocabulary lacks the {} '{}'", role,
                                               printable(added_.name(role))));
      }
    }
    bos_ = added_.id("bos_token");
    eos_ = added_.id("eos_token");
    pad_ = added_.id("pad_token");
    const std::int64_t largest = std::max({bpe_.max_id(), bos_, eos_, pad_});
    if (largest >= vocab_size) {
      bad_tokenizer_file(folder, fmt::format("token id {} does not fit the text encoder, which has "
                                             "{} tokens",
                                             largest, vocab_size));
    }
  }

  TokenizedPrompt tokenize(const std::string& prompt, std::int64_t length) const override {
    if (length < 2) {
      throw Error(ErrorKind::kInternal, fmt::format("CLIP needs 2 tokens or more, got {}", length));
    }
    check_utf8(prompt);
    std::vector<std::int64_t> text_ids;
    for (const TextSpan& span : added_.split(prompt, false)) {
      if (span.id >= 0) {
        push_added(span.id, text_ids);
      } else {
        encode_text(std::string_view(prompt).substr(span.begin, span.end - span.begin), text_ids);
      }
    }
    const std::size_t kept = std::min(text_ids.size(), static_cast<std::size_t>(length - 2));
    TokenizedPrompt result;
    result.ids.push_back(bos_);
    result.ids.insert(result.ids.end(), text_ids.begin(),
                      text_ids.begin() + static_cast<std::ptrdiff_t>(kept));
    result.ids.push_back(eos_);
    result.num_tokens = static_cast<std::int64_t>(result.ids.size());
    result.ids.resize(static_cast<std::size_t>(length), pad_);
    result.lost_text = decode(text_ids, kept);
    return result;
  }

 private:
  void push_added(std::int64_t id, std::vector<std::int64_t>& ids) const {
    if (id >= vocab_size_) {
      throw Error(ErrorKind::kUsage,
                  fmt::format("the prompt has a special token with id {}, but the text encoder has "
                              "{} tokens; leave it out",
                              id, vocab_size_));
    }
    ids.push_back(id);
  }

  void encode_text(std::string_view text, std::vector<std::int64_t>& ids) const {
    // White space is only a separator from here on, so making it one blank would change nothing.
    const std::string normalized = lower_case(nfc(text));
    for (const TextSpan& span : added_.split(normalized, true)) {
      if (span.id >= 0) {
        push_added(span.id, ids);
        continue;
      }
      const std::string_view rest =
          std::string_view(normalized).substr(span.begin, span.end - span.begin);
      for (std::size_t pos = 0; pos < rest.size();) {
        std::size_t next = pos;
        if (is_white_space(next_code_point(rest, next))) {
          pos = next;
          continue;
        }
        const std::size_t end = piece_end(rest, pos);
        bpe_.encode(rest.substr(pos, end - pos), ids);
        pos = end;
      }
    }
  }

  // The text of the ids from `first` on; a character cut in two is left out.
  std::string decode(const std::vector<std::int64_t>& ids, std::size_t first) const {
    std::string text;
    for (std::size_t i = first; i < ids.size(); ++i) {
      text += bpe_.decode(ids[i]);
    }
    std::size_t start = 0;
    while (start < text.size() && (static_cast<unsigned char>(text[start]) & 0xc0) == 0x80) {
      ++start;
    }
    while (text.size() > start && text.back() == ' ') {
      text.pop_back();
    }
    return text.substr(start);
  }

  AddedTokens added_;
  Bpe bpe_;
  std::int64_t vocab_size_;
  std::int64_t bos_ = 0;
  std::int64_t eos_ = 0;
  std::int64_t pad_ = 0;
};

}  // namespace

std::unique_ptr<Tokenizer> load_clip_tokenizer(const fs::path& folder, std::int64_t vocab_size) {
  return std::make_unique<ClipTokenizer>(folder, vocab_size);
}

}  // namespace steadyflux
