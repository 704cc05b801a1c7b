// sentencepiece's precompiled normalisation rules ("charsmap"): a double-array trie over UTF-8
// sequences whose values point into a block of replacement strings. Applied the way the reference
// tokenizers library does it, which is not sentencepiece's own way: a grapheme cluster of up to
// five bytes is replaced as a whole by its *shortest* matching rule, everything else code point by
// code point.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace steadyflux {

// Normalised text, and for each of its bytes the offset in the text it came from.
struct MappedText {
  std::string text;
  std::vector<std::size_t> origin;
};

class Charsmap {
 public:
  Charsmap() = default;  // changes nothing
  // `blob`: uint32 size of the trie, the trie, the strings. Returns nothing if it is damaged.
  static std::optional<Charsmap> parse(std::string_view blob);

  MappedText apply(std::string_view text) const;

 private:
  // The replacement for the shortest prefix of `chunk` that has one.
  std::optional<std::string_view> replacement(std::string_view chunk) const;

  std::vector<std::uint32_t> trie_;
  std::string strings_;
};

}  // namespace steadyflux
