// Byte pair encoding of one word, as CLIP uses it: the bytes of the word become visible characters
// (GPT-2's table), the last one carries the suffix "</w>", and pairs are merged in the order of the
// list of merges. Merging costs O(n log n), so that a word of 100 kB is no trap.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace steadyflux {

class Bpe {
 public:
  using Merge = std::pair<std::string_view, std::string_view>;

  // `vocab` maps tokens to ids, `merges` are sorted by rank. The files are named in errors.
  Bpe(std::unordered_map<std::string, std::int64_t> vocab, const std::vector<Merge>& merges,
      const std::string& unk_token, const std::filesystem::path& file);

  // Appends the ids of one word (any bytes). Error{kBadInput} if a byte is in the vocabulary
  // neither by itself nor through an unknown token.
  void encode(std::string_view word, std::vector<std::int64_t>& ids) const;

  std::optional<std::int64_t> id(const std::string& token) const;
  std::int64_t vocab_size() const { return static_cast<std::int64_t>(vocab_.size()); }
  std::int64_t max_id() const { return max_id_; }

  // The text of a token: bytes again, a blank for "</w>".
  std::string decode(std::int64_t id) const;

 private:
  struct Target {
    std::int32_t rank;
    std::int32_t id;
  };

  std::filesystem::path file_;
  std::unordered_map<std::string, std::int64_t> vocab_;
  std::unordered_map<std::int64_t, std::string_view> tokens_;  // views into the keys of vocab_
  std::unordered_map<std::uint64_t, Target> merges_;           // (left id, right id) -> result
  std::array<std::int32_t, 256> byte_ids_{};                   // -1: unknown
  std::array<std::int32_t, 256> last_byte_ids_{};              // the same with "</w>"
  std::int64_t max_id_ = -1;
};

}  // namespace steadyflux
