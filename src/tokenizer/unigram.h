// The unigram language model of sentencepiece: of all ways to cut a word into pieces, the one with
// the largest sum of scores. Scores are summed in double, with the first of equal sums kept,
// because the reference does; libsentencepiece sums in float and cuts long runs of one character
// elsewhere.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace steadyflux {

struct UnigramPiece {
  std::string text;
  double score = 0;
};

class Unigram {
 public:
  // A token is the index of its piece. `unk_id` < pieces.size().
  Unigram(const std::vector<UnigramPiece>& pieces, std::int64_t unk_id);

  struct Token {
    std::int64_t id;
    std::size_t begin;  // byte offset in the word
  };
  // Appends the tokens of a word (UTF-8); neighbouring unknown characters become one token.
  void encode(std::string_view word, std::vector<Token>& tokens) const;

  // The id of a piece; of equal pieces, the last.
  std::optional<std::int64_t> id(std::string_view piece) const;

 private:
  struct Node {
    std::int32_t first_child = 0;
    std::int32_t num_children = 0;
    std::int32_t id = -1;
    unsigned char byte = 0;
  };
  // The child of `node` for this byte, or -1.
  std::int32_t child(std::int32_t node, unsigned char byte) const;

  std::vector<Node> nodes_;  // a trie; the children of a node lie side by side, sorted by byte
  std::vector<double> scores_;
  std::int64_t unk_id_;
  double unk_score_;
};

}  // namespace steadyflux
