// The reference builds the same pipeline from either file: added tokens are split off; the rest is
// normalised by the model's charsmap, cut at white space, every word gets a '▁' in front, is cut
// before each further '▁', and goes through the unigram model by itself.
#include "tokenizer/t5_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/json.h"
#include "base/utf8.h"
#include "steadyflux/error.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/charsmap.h"
#include "tokenizer/spiece_model.h"
#include "tokenizer/tokenizer_files.h"
#include "tokenizer/unicode.h"
#include "tokenizer/unigram.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::string_view kWordStart = "\xe2\x96\x81";  // '▁', U+2581
constexpr std::int64_t kUnkId = 2;                       // fixed in the reference

std::string decode_base64(const fs::path& file, std::string_view text) {
  std::string bytes;
  std::uint32_t bits = 0;
  int count = 0;
  while (!text.empty() && text.back() == '=') {
    text.remove_suffix(1);
  }
  for (const char c : text) {
    const std::string_view alphabet =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const std::size_t digit = alphabet.find(c);
    if (digit == std::string_view::npos) {
      bad_tokenizer_file(file, "\"precompiled_charsmap\" is not base64");
    }
    bits = bits << 6 | static_cast<std::uint32_t>(digit);
    count += 6;
    if (count >= 8) {
      count -= 8;
      bytes.push_back(static_cast<char>(bits >> count & 0xff));
    }
  }
  return bytes;
}

// The charsmap of the first "Precompiled" among the normalizers, as the reference takes it.
std::string find_charsmap(const fs::path& file, const json& tokenizer) {
  const auto found = tokenizer.find("normalizer");
  if (found == tokenizer.end() || found->is_null()) {
    return {};
  }
  json list = *found;
  if (list.is_object()) {
    list = list.value("type", json()) == "Sequence" ? list.value("normalizers", json())
                                                    : json::array({list});
  }
  if (!list.is_array()) {
    bad_tokenizer_file(file, "\"normalizer\" is not an object");
  }
  for (const json& normalizer : list) {
    if (normalizer.is_object() && normalizer.value("type", json()) == "Precompiled" &&
        normalizer.contains("precompiled_charsmap")) {
      const json& map = normalizer["precompiled_charsmap"];
      if (!map.is_string()) {
        bad_tokenizer_file(file, "\"precompiled_charsmap\" is not a string");
      }
      return decode_base64(file, map.get_ref<const std::string&>());
    }
  }
  return {};
}

SpieceModel read_tokenizer_json(const fs::path& file) {
  const json tokenizer = read_json_object(file);
  const auto model = tokenizer.find("model");
  if (model == tokenizer.end() || !model->is_object() || !model->contains("vocab") ||
      !(*model)["vocab"].is_array()) {
    bad_tokenizer_file(file, "no unigram \"model\" with a list \"vocab\"");
  }
  SpieceModel result;
  for (const json& entry : (*model)["vocab"]) {
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number() ||
        !std::isfinite(entry[1].get<double>())) {
      bad_tokenizer_file(file, fmt::format("entry {} of the vocabulary is not [piece, score]",
                                           result.pieces.size()));
    }
    result.pieces.push_back({entry[0].get<std::string>(), entry[1].get<double>()});
  }
  result.precompiled_charsmap = find_charsmap(file, tokenizer);
  return result;
}

// How many <extra_id_N> there are: "extra_ids" of tokenizer_config.json, 100 without it.
std::int64_t count_extra_ids(const fs::path& folder) {
  const fs::path file = folder / "tokenizer_config.json";
  const json config = read_optional_json_object(file);
  const auto found = config.find("extra_ids");
  if (found == config.end() || found->is_null()) {
    return 100;
  }
  if (!found->is_number_integer() || found->get<std::int64_t>() < 0 ||
      found->get<std::int64_t>() > 10000) {
    bad_tokenizer_file(file, "\"extra_ids\" is not a number from 0 to 10000");
  }
  return found->get<std::int64_t>();
}

// tokenizer.json counts where both forms are there, as in the reference. spiece.model gets the
// extra ids appended, the largest first.
SpieceModel load_model(const fs::path& folder, std::int64_t extra_ids) {
  if (fs::exists(folder / "tokenizer.json")) {
    return read_tokenizer_json(folder / "tokenizer.json");
  }
  SpieceModel model = read_spiece_model(folder / "spiece.model");
  for (std::int64_t i = extra_ids - 1; i >= 0; --i) {
    model.pieces.push_back({fmt::format("<extra_id_{}>", i), 0.0});
  }
  return model;
}

class T5Tokenizer : public Tokenizer {
 public:
  T5Tokenizer(const fs::path& folder, std::int64_t vocab_size)
      : T5Tokenizer(folder, vocab_size, count_extra_ids(folder)) {}

  TokenizedPrompt tokenize(const std::string& prompt, std::int64_t length) const override {
    if (length < 1) {
      throw Error(ErrorKind::kInternal, fmt::format("T5 needs 1 token or more, got {}", length));
    }
    check_utf8(prompt);
    std::vector<Unigram::Token> tokens;  // `begin` counts from the start of the prompt
    for (const TextSpan& span : added_.split(prompt, false)) {
      if (span.id >= 0) {
        push_added(span.id, span.begin, tokens);
      } else {
        encode_text(std::string_view(prompt).substr(span.begin, span.end - span.begin), span.begin,
                    tokens);
      }
    }
    const std::size_t kept = std::min(tokens.size(), static_cast<std::size_t>(length - 1));
    TokenizedPrompt result;
    for (std::size_t i = 0; i < kept; ++i) {
      result.ids.push_back(tokens[i].id);
    }
    result.ids.push_back(eos_);
    result.num_tokens = static_cast<std::int64_t>(result.ids.size());
    result.ids.resize(static_cast<std::size_t>(length), pad_);
    if (kept < tokens.size()) {
      result.lost_text = prompt.substr(tokens[kept].begin);
    }
    return result;
  }

 private:
  T5Tokenizer(const fs::path& folder, std::int64_t vocab_size, std::int64_t extra_ids)
      : T5Tokenizer(folder, vocab_size, extra_ids, load_model(folder, extra_ids)) {}

  T5Tokenizer(const fs::path& folder, std::int64_t vocab_size, std::int64_t extra_ids,
              const SpieceModel& model)
      : added_(folder, {{"eos_token", "</s>"}, {"unk_token", "<unk>"}, {"pad_token", "<pad>"}},
               extra_tokens(model, extra_ids)),
        unigram_(model.pieces, kUnkId),
        vocab_size_(vocab_size) {
    const auto num_pieces = static_cast<std::int64_t>(model.pieces.size());
    if (num_pieces <= kUnkId) {
      bad_tokenizer_file(folder, fmt::format("{} pieces are too few for T5", num_pieces));
    }
    added_.assign_ids([&](const std::string& piece) { return unigram_.id(piece); }, num_pieces);
    // The reference would give it a new id, whose embedding means something else.
    if (!unigram_.id(added_.name("eos_token"))) {
      bad_tokenizer_file(folder, fmt::format("the vocabulary lacks the eos_token '{}'",
                                             printable(added_.name("eos_token"))));
    }
    eos_ = added_.id("eos_token");
    pad_ = added_.id("pad_token");
    const std::int64_t largest = std::max({num_pieces - 1, eos_, pad_});
    if (largest >= vocab_size) {
      bad_tokenizer_file(folder, fmt::format("token id {} does not fit the text encoder, which has "
                                             "{} tokens",
                                             largest, vocab_size));
    }
    const std::optional<Charsmap> charsmap = Charsmap::parse(model.precompiled_charsmap);
    if (!charsmap) {
      bad_tokenizer_file(folder, "the precompiled charsmap is damaged");
    }
    charsmap_ = *charsmap;
    added_.normalize_patterns([&](const std::string& text) { return charsmap_.apply(text).text; });
  }

  static std::vector<std::string> extra_tokens(const SpieceModel& model, std::int64_t extra_ids) {
    std::vector<std::string> tokens = model.control;
    for (std::int64_t i = 0; i < extra_ids; ++i) {
      tokens.push_back(fmt::format("<extra_id_{}>", i));
    }
    return tokens;
  }

  void push_added(std::int64_t id, std::size_t begin, std::vector<Unigram::Token>& tokens) const {
    if (id >= vocab_size_) {
      throw Error(ErrorKind::kUsage,
                  fmt::format("the prompt has a special token with id {}, but the text encoder has "
                              "{} tokens; leave it out",
                              id, vocab_size_));
    }
    tokens.push_back({id, begin});
  }

  // `offset` is where `text` begins in the prompt.
  void encode_text(std::string_view text, std::size_t offset,
                   std::vector<Unigram::Token>& tokens) const {
    const MappedText mapped = charsmap_.apply(text);
    for (const TextSpan& span : added_.split(mapped.text, true)) {
      if (span.id >= 0) {
        push_added(span.id, offset + mapped.origin[span.begin], tokens);
        continue;
      }
      for (std::size_t pos = span.begin; pos < span.end;) {
        std::size_t next = pos;
        if (is_white_space(next_code_point(mapped.text, next))) {
          pos = next;
          continue;
        }
        std::size_t end = next;
        while (end < span.end && !is_white_space(next_code_point(mapped.text, next))) {
          end = next;
        }
        encode_word(mapped, pos, end, offset, tokens);
        pos = end;
      }
    }
  }

  void encode_word(const MappedText& mapped, std::size_t begin, std::size_t end, std::size_t offset,
                   std::vector<Unigram::Token>& tokens) const {
    while (begin < end) {
      const bool marked = mapped.text.compare(begin, kWordStart.size(), kWordStart) == 0;
      const std::size_t search = begin + (marked ? kWordStart.size() : 0);
      const std::size_t stop = std::min(mapped.text.find(kWordStart, search), end);
      // Only the first part can lack the mark: the others begin where one was found.
      std::string word = marked ? "" : std::string(kWordStart);
      const std::size_t shift = word.size();
      word.append(mapped.text, begin, stop - begin);
      const std::size_t first = tokens.size();
      unigram_.encode(word, tokens);
      for (std::size_t i = first; i < tokens.size(); ++i) {
        const std::size_t at = begin + std::max(tokens[i].begin, shift) - shift;
        tokens[i].begin = offset + mapped.origin[std::min(at, stop - 1)];
      }
      begin = stop;
    }
  }

  AddedTokens added_;
  Unigram unigram_;
  Charsmap charsmap_;
  std::int64_t vocab_size_;
  std::int64_t eos_ = 0;
  std::int64_t pad_ = 0;
};

}  // namespace

std::unique_ptr<Tokenizer> load_t5_tokenizer(const fs::path& folder, std::int64_t vocab_size) {
  return std::make_unique<T5Tokenizer>(folder, vocab_size);
}

}  // namespace steadyflux
