#include "tokenizer/charsmap.h"

#include <fmt/format.h>
#include <unicode/ubrk.h>
#include <unicode/utext.h>

#include <algorithm>
#include <memory>

#include "base/utf8.h"
#include "steadyflux/error.h"
#include "tokenizer/unicode.h"

namespace steadyflux {
namespace {

// One unit of the trie: label in bits 0-7, "has a value" in bit 8, the offset to the children in
// bits 10-30, stretched by 256 if bit 9 is set; bit 31 marks the unit that holds a value.
std::uint32_t label(std::uint32_t unit) { return unit & 0x800000ffu; }
bool has_value(std::uint32_t unit) { return (unit >> 8 & 1) != 0; }
std::uint32_t value(std::uint32_t unit) { return unit & 0x7fffffffu; }
std::uint32_t offset(std::uint32_t unit) { return unit >> 10 << ((unit & 0x200u) >> 6); }

constexpr std::size_t kMaxGraphemeRule = 5;  // bytes
// Bytes of one replacement. The longest of NFKC has 33 (U+FDFA); a damaged file must not make one
// character into megabytes.
constexpr std::size_t kMaxReplacement = 256;

// The ends of the grapheme clusters of `text`.
std::vector<std::size_t> grapheme_ends(std::string_view text) {
  UErrorCode status = U_ZERO_ERROR;
  const std::unique_ptr<UText, decltype(&utext_close)> utext(
      utext_openUTF8(nullptr, text.data(), static_cast<std::int64_t>(text.size()), &status),
      utext_close);
  const std::unique_ptr<UBreakIterator, decltype(&ubrk_close)> breaks(
      ubrk_open(UBRK_CHARACTER, "", nullptr, 0, &status), ubrk_close);
  if (U_SUCCESS(status)) {
    ubrk_setUText(breaks.get(), utext.get(), &status);
  }
  if (U_FAILURE(status)) {
    throw Error(ErrorKind::kInternal,
                fmt::format("ICU cannot find graphemes: {}", u_errorName(status)));
  }
  std::vector<std::size_t> ends;
  for (std::int32_t end = ubrk_next(breaks.get()); end != UBRK_DONE;
       end = ubrk_next(breaks.get())) {
    ends.push_back(static_cast<std::size_t>(end));
  }
  return ends;
}

}  // namespace

std::optional<Charsmap> Charsmap::parse(std::string_view blob) {
  const auto read_u32 = [&](std::size_t at) {
    std::uint32_t word = 0;
    for (std::size_t i = 0; i < 4; ++i) {
      word |= static_cast<std::uint32_t>(static_cast<unsigned char>(blob[at + i])) << (8 * i);
    }
    return word;
  };
  Charsmap map;
  if (blob.empty()) {
    return map;
  }
  if (blob.size() < 4) {
    return std::nullopt;
  }
  const std::size_t trie_bytes = read_u32(0);
  if (trie_bytes == 0 || trie_bytes % 4 != 0 || trie_bytes > blob.size() - 4) {
    return std::nullopt;
  }
  for (std::size_t at = 4; at < 4 + trie_bytes; at += 4) {
    map.trie_.push_back(read_u32(at));
  }
  map.strings_ = std::string(blob.substr(4 + trie_bytes));
  for (std::size_t begin = 0; begin < map.strings_.size();) {
    const std::size_t end = std::min(map.strings_.find('\0', begin), map.strings_.size());
    if (end - begin > kMaxReplacement) {
      return std::nullopt;
    }
    begin = end + 1;
  }
  return map;
}

std::optional<std::string_view> Charsmap::replacement(std::string_view chunk) const {
  if (trie_.empty()) {
    return std::nullopt;
  }
  std::uint32_t position = offset(trie_[0]);
  for (const char c : chunk) {
    const std::uint32_t byte = static_cast<unsigned char>(c);
    position ^= byte;
    if (byte == 0 || position >= trie_.size() || label(trie_[position]) != byte) {
      return std::nullopt;
    }
    const std::uint32_t unit = trie_[position];
    position ^= offset(unit);
    if (has_value(unit)) {
      if (position >= trie_.size() || value(trie_[position]) > strings_.size()) {
        return std::nullopt;
      }
      const std::string_view text(strings_.c_str() + value(trie_[position]));
      return is_valid_utf8(text) ? std::optional(text) : std::nullopt;
    }
  }
  return std::nullopt;
}

MappedText Charsmap::apply(std::string_view text) const {
  MappedText result;
  result.text.reserve(text.size());
  result.origin.reserve(text.size());
  const auto append = [&](std::string_view part, std::size_t from, bool copied) {
    for (std::size_t i = 0; i < part.size(); ++i) {
      result.origin.push_back(copied ? from + i : from);
    }
    result.text += part;
  };
  std::size_t begin = 0;
  for (const std::size_t end : grapheme_ends(text)) {
    if (end - begin <= kMaxGraphemeRule) {
      if (const auto whole = replacement(text.substr(begin, end - begin))) {
        append(*whole, begin, false);
        begin = end;
        continue;
      }
    }
    while (begin < end) {
      std::size_t next = begin;
      next_code_point(text, next);
      const std::string_view part = text.substr(begin, next - begin);
      const std::optional<std::string_view> mapped = replacement(part);
      append(mapped.value_or(part), begin, !mapped);
      begin = next;
    }
  }
  return result;
}

}  // namespace steadyflux
