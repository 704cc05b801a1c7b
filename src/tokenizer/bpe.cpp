#include "tokenizer/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <queue>
#include <tuple>

#include "steadyflux/error.h"
#include "tokenizer/tokenizer_files.h"
#include "tokenizer/unicode.h"

namespace steadyflux {
namespace {

constexpr std::string_view kSuffix = "</w>";
constexpr std::int32_t kNone = -1;

// GPT-2's table: printable Latin-1 bytes stand for themselves, the others take the code points from
// 256 on, in order.
std::array<char32_t, 256> byte_characters() {
  std::array<char32_t, 256> table{};
  char32_t next = 256;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
    table[byte] = printable ? byte : next++;
  }
  return table;
}

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
         static_cast<std::uint32_t>(right);
}

}  // namespace

Bpe::Bpe(std::unordered_map<std::string, std::int64_t> vocab, const std::vector<Merge>& merges,
         const std::string& unk_token, const std::filesystem::path& file)
    : file_(file), vocab_(std::move(vocab)) {
  tokens_.reserve(vocab_.size());
  for (const auto& [token, id] : vocab_) {
    if (id < 0 || id > std::numeric_limits<std::int32_t>::max()) {
      bad_tokenizer_file(file, fmt::format("the token id {} is out of range", id));
    }
    max_id_ = std::max(max_id_, id);
    tokens_[id] = token;
  }
  const std::int32_t unk = static_cast<std::int32_t>(id(unk_token).value_or(kNone));
  const std::array<char32_t, 256> characters = byte_characters();
  for (std::size_t byte = 0; byte < 256; ++byte) {
    std::string token;
    append_utf8(token, characters[byte]);
    byte_ids_[byte] = static_cast<std::int32_t>(id(token).value_or(unk));
    last_byte_ids_[byte] = static_cast<std::int32_t>(id(token.append(kSuffix)).value_or(unk));
  }
  merges_.reserve(merges.size());
  std::int32_t rank = 0;
  for (const auto& [left, right] : merges) {
    std::string text(left);
    const std::optional<std::int64_t> left_id = id(text);
    const std::optional<std::int64_t> merged_id = id(text.append(right));
    const std::optional<std::int64_t> right_id = id(text.substr(left.size()));
    if (!left_id || !right_id || !merged_id) {
      bad_tokenizer_file(
          file, fmt::format("merge {} uses a token that is not in the vocabulary", rank + 1));
    }
    // Of two merges of one pair the later one counts, as in the reference.
    merges_[pair_key(static_cast<std::int32_t>(*left_id), static_cast<std::int32_t>(*right_id))] =
        Target{rank++, static_cast<std::int32_t>(*merged_id)};
  }
}

void Bpe::encode(std::string_view word, std::vector<std::int64_t>& ids) const {
  struct Symbol {
    std::int32_t id;
    std::int32_t previous;
    std::int32_t next;
  };
  const auto size = static_cast<std::int32_t>(word.size());
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  for (std::int32_t i = 0; i < size; ++i) {
    const auto byte = static_cast<unsigned char>(word[static_cast<std::size_t>(i)]);
    const bool last = i + 1 == size;
    const std::int32_t symbol = last ? last_byte_ids_[byte] : byte_ids_[byte];
    if (symbol == kNone) {
      bad_tokenizer_file(file_, fmt::format("the vocabulary has no token for byte 0x{:02x} and no "
                                            "unknown token",
                                            byte));
    }
    symbols.push_back({symbol, i - 1, last ? kNone : i + 1});
  }

  // (rank, position of the left symbol, the pair it was seen with); the lowest first.
  using Candidate = std::tuple<std::int32_t, std::int32_t, std::uint64_t>;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
  const auto offer = [&](std::int32_t left) {
    if (left == kNone || symbols[static_cast<std::size_t>(left)].next == kNone) {
      return;
    }
    const Symbol& symbol = symbols[static_cast<std::size_t>(left)];
    const std::uint64_t key =
        pair_key(symbol.id, symbols[static_cast<std::size_t>(symbol.next)].id);
    const auto found = merges_.find(key);
    if (found != merges_.end()) {
      candidates.emplace(found->second.rank, left, key);
    }
  };
  for (std::int32_t i = 0; i < size; ++i) {
    offer(i);
  }
  while (!candidates.empty()) {
    const auto [rank, position, key] = candidates.top();
    candidates.pop();
    Symbol& left = symbols[static_cast<std::size_t>(position)];
    if (left.id == kNone || left.next == kNone) {
      continue;  // merged away meanwhile
    }
    Symbol& right = symbols[static_cast<std::size_t>(left.next)];
    if (pair_key(left.id, right.id) != key) {
      continue;
    }
    left.id = merges_.at(key).id;
    right.id = kNone;
    left.next = right.next;
    if (left.next != kNone) {
      symbols[static_cast<std::size_t>(left.next)].previous = position;
    }
    offer(left.previous);
    offer(position);
  }
  for (const Symbol& symbol : symbols) {
    if (symbol.id != kNone) {
      ids.push_back(symbol.id);
    }
  }
}

std::optional<std::int64_t> Bpe::id(const std::string& token) const {
  const auto found = vocab_.find(token);
  return found == vocab_.end() ? std::nullopt : std::optional(found->second);
}

std::string Bpe::decode(std::int64_t id) const {
  const auto found = tokens_.find(id);
  if (found == tokens_.end()) {
    return {};
  }
  std::string_view token = found->second;
  const bool ends_word =
      token.size() >= kSuffix.size() && token.substr(token.size() - kSuffix.size()) == kSuffix;
  if (ends_word) {
    token.remove_suffix(kSuffix.size());
  }
  const std::array<char32_t, 256> characters = byte_characters();
  std::string text;
  for (std::size_t pos = 0; pos < token.size();) {
    const auto* byte = std::find(characters.begin(), characters.end(), next_code_point(token, pos));
    if (byte != characters.end()) {
      text.push_back(static_cast<char>(byte - characters.begin()));
    }
  }
  return ends_word ? text + " " : text;
}

}  // namespace steadyflux
