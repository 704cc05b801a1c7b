#include "tokenizer/added_tokens.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <nlohmann/json.hpp>

#include "steadyflux/error.h"
#include "tokenizer/tokenizer_files.h"
#include "tokenizer/unicode.h"

namespace steadyflux {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

// T5 has 100. The searches below are linear, so there has to be a limit.
constexpr std::size_t kMaxTokens = 16384;

constexpr std::array kRoles = {"bos_token", "eos_token", "unk_token", "sep_token",
                               "pad_token", "cls_token", "mask_token"};

bool flag(const fs::path& file, const json& object, const char* key, bool otherwise) {
  const auto found = object.find(key);
  if (found == object.end()) {
    return otherwise;
  }
  if (!found->is_boolean()) {
    bad_tokenizer_file(file, fmt::format("\"{}\" of an added token is not true or false", key));
  }
  return found->get<bool>();
}

// A token is a string (special then, and so not normalised) or an object with "content" and flags.
AddedToken parse_token(const fs::path& file, const json& value, bool special) {
  AddedToken token;
  if (value.is_string()) {
    token.content = value.get<std::string>();
    return token;
  }
  if (!value.is_object() || !value.contains("content") || !value["content"].is_string()) {
    bad_tokenizer_file(file, "an added token has no string \"content\"");
  }
  token.content = value["content"].get<std::string>();
  special = flag(file, value, "special", special);
  token.normalized = flag(file, value, "normalized", !special);
  token.lstrip = flag(file, value, "lstrip", false);
  token.rstrip = flag(file, value, "rstrip", false);
  token.single_word = flag(file, value, "single_word", false);
  return token;
}

// Named tokens and lists of extra ones, as tokenizer_config.json and special_tokens_map.json have
// them.
struct Declared {
  std::map<std::string, AddedToken> named;
  std::vector<AddedToken> extra;
};

void read_declared(const fs::path& file, const json& object, bool special, Declared& declared) {
  for (const char* role : kRoles) {
    const auto found = object.find(role);
    if (found != object.end() && !found->is_null()) {
      declared.named[role] = parse_token(file, *found, special);
    }
  }
  for (const char* key : {"extra_special_tokens", "additional_special_tokens"}) {
    const auto found = object.find(key);
    if (found == object.end() || !(found->is_array() || found->is_object())) {
      continue;
    }
    for (const json& value : *found) {
      declared.extra.push_back(parse_token(file, value, true));
    }
  }
}

bool is_word_character(char32_t c) { return is_letter(c) || is_number(c) || c == '_'; }

// The code point that ends before `pos`.
char32_t code_point_before(std::string_view text, std::size_t pos) {
  do {
    --pos;
  } while (pos > 0 && (static_cast<unsigned char>(text[pos]) & 0xc0) == 0x80);
  return next_code_point(text, pos);
}

std::size_t utf8_length(char32_t c) { return c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4; }

bool inside_word(std::string_view text, std::size_t begin, std::size_t end) {
  if (begin > 0 && is_word_character(code_point_before(text, begin))) {
    return true;
  }
  return end < text.size() && is_word_character(next_code_point(text, end));
}

}  // namespace

AddedTokens::AddedTokens(const fs::path& folder, std::map<std::string, std::string> defaults,
                         const std::vector<std::string>& extra)
    : named_(std::move(defaults)) {
  const fs::path config_file = folder / "tokenizer_config.json";
  const json config = read_optional_json_object(config_file);
  Declared declared;
  read_declared(config_file, config, false, declared);
  const auto decoder = config.find("added_tokens_decoder");
  if (decoder != config.end()) {
    if (!decoder->is_object()) {
      bad_tokenizer_file(config_file, "\"added_tokens_decoder\" is not an object");
    }
    std::map<std::int64_t, AddedToken> by_id;
    for (const auto& [key, value] : decoder->items()) {
      std::int64_t id = -1;
      const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
      if (error != std::errc() || end != key.data() + key.size() || id < 0) {
        bad_tokenizer_file(config_file, "a key of \"added_tokens_decoder\" is not a token id");
      }
      by_id[id] = parse_token(config_file, value, false);
    }
    for (auto& [id, token] : by_id) {
      add(folder, std::move(token));
    }
  } else {
    const fs::path map_file = folder / "special_tokens_map.json";
    read_declared(map_file, read_optional_json_object(map_file), true, declared);
    const fs::path legacy_file = folder / "added_tokens.json";
    const json legacy = read_optional_json_object(legacy_file);
    for (const auto& entry : legacy.items()) {
      const bool special =
          std::any_of(declared.named.begin(), declared.named.end(),
                      [&](const auto& named) { return named.second.content == entry.key(); });
      add(folder, AddedToken{.content = entry.key(), .normalized = !special});
    }
    const fs::path tokenizer_file = folder / "tokenizer.json";
    const json tokenizer = read_optional_json_object(tokenizer_file);
    const auto added = tokenizer.find("added_tokens");
    if (added != tokenizer.end()) {
      if (!added->is_array()) {
        bad_tokenizer_file(tokenizer_file, "\"added_tokens\" is not a list");
      }
      for (const json& value : *added) {
        add(folder, parse_token(tokenizer_file, value, false));
      }
    }
  }
  for (auto& [role, token] : declared.named) {
    named_[role] = token.content;
    add(folder, std::move(token));
  }
  for (const auto& [role, content] : named_) {
    add(folder, AddedToken{.content = content});
  }
  for (AddedToken& token : declared.extra) {
    add(folder, std::move(token));
  }
  for (const std::string& content : extra) {
    add(folder, AddedToken{.content = content});
  }
}

// The first declaration of a string decides its flags.
void AddedTokens::add(const fs::path& folder, AddedToken token) {
  const auto same = [&](const AddedToken& other) { return other.content == token.content; };
  if (!token.content.empty() && std::none_of(tokens_.begin(), tokens_.end(), same)) {
    if (tokens_.size() == kMaxTokens) {
      bad_tokenizer_file(folder, fmt::format("more than {} added tokens", kMaxTokens));
    }
    token.pattern = token.content;
    tokens_.push_back(std::move(token));
  }
}

void AddedTokens::normalize_patterns(
    const std::function<std::string(const std::string&)>& normalize) {
  for (AddedToken& token : tokens_) {
    if (token.normalized) {
      token.pattern = normalize(token.content);
    }
  }
}

void AddedTokens::assign_ids(
    const std::function<std::optional<std::int64_t>(const std::string&)>& model_id,
    std::int64_t model_size) {
  std::int64_t next = model_size;
  for (AddedToken& token : tokens_) {
    const std::optional<std::int64_t> known = model_id(token.content);
    token.id = known ? *known : next;
    next = std::max(next, token.id + 1);
  }
}

const std::string& AddedTokens::name(const std::string& role) const { return named_.at(role); }

std::int64_t AddedTokens::id(const std::string& role) const {
  const std::string& content = name(role);
  for (const AddedToken& token : tokens_) {
    if (token.content == content) {
      return token.id;
    }
  }
  throw Error(ErrorKind::kInternal, fmt::format("the tokenizer has no {}", role));
}

const AddedToken* AddedTokens::match(std::string_view text, std::size_t pos,
                                     bool normalized) const {
  const AddedToken* longest = nullptr;
  for (const AddedToken& token : tokens_) {
    if (token.normalized == normalized && !token.pattern.empty() && token.pattern[0] == text[pos] &&
        text.compare(pos, token.pattern.size(), token.pattern) == 0 &&
        (longest == nullptr || token.pattern.size() > longest->pattern.size())) {
      longest = &token;
    }
  }
  return longest;
}

std::vector<TextSpan> AddedTokens::split(std::string_view text, bool normalized) const {
  std::array<bool, 256> may_start{};
  for (const AddedToken& token : tokens_) {
    if (token.normalized == normalized && !token.pattern.empty()) {
      may_start[static_cast<unsigned char>(token.pattern[0])] = true;
    }
  }
  std::vector<TextSpan> spans;
  std::size_t done = 0;
  for (std::size_t pos = 0; pos < text.size();) {
    const AddedToken* token =
        may_start[static_cast<unsigned char>(text[pos])] ? match(text, pos, normalized) : nullptr;
    if (token == nullptr) {
      ++pos;
      continue;
    }
    std::size_t begin = pos;
    std::size_t end = pos + token->pattern.size();
    pos = end;
    if (token->single_word && inside_word(text, begin, end)) {
      continue;
    }
    if (token->lstrip) {
      while (begin > done && is_white_space(code_point_before(text, begin))) {
        begin -= utf8_length(code_point_before(text, begin));
      }
    }
    if (token->rstrip) {
      for (std::size_t next = end;
           next < text.size() && is_white_space(next_code_point(text, next));) {
        end = next;
      }
    }
    if (begin > done) {
      spans.push_back({done, begin, -1});
    }
    spans.push_back({begin, end, token->id});
    done = end;
    pos = std::max(pos, end);
  }
  if (done < text.size()) {
    spans.push_back({done, text.size(), -1});
  }
  return spans;
}

}  // namespace steadyflux
