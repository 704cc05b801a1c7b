#include "tokenizer/unigram.h"

#include <algorithm>
#include <deque>
#include <limits>

#include "tokenizer/unicode.h"

namespace steadyflux {
namespace {

constexpr double kUnknownPenalty = 10.0;  // an unknown character scores this below the worst piece

}  // namespace

Unigram::Unigram(const std::vector<UnigramPiece>& pieces, std::int64_t unk_id) : unk_id_(unk_id) {
  double lowest = std::numeric_limits<double>::infinity();
  std::vector<std::int32_t> order;
  for (const UnigramPiece& piece : pieces) {
    lowest = std::min(lowest, piece.score);
    order.push_back(static_cast<std::int32_t>(scores_.size()));
    scores_.push_back(piece.score);
  }
  unk_score_ = lowest - kUnknownPenalty;
  const auto text = [&](std::int32_t i) -> const std::string& {
    return pieces[static_cast<std::size_t>(i)].text;
  };
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return text(a) < text(b); });

  // Breadth first: a range of sorted pieces shares the first `depth` bytes.
  struct Range {
    std::size_t node, begin, end, depth;
  };
  nodes_.emplace_back();
  std::deque<Range> open = {{0, 0, order.size(), 0}};
  while (!open.empty()) {
    Range range = open.front();
    open.pop_front();
    while (range.begin < range.end && text(order[range.begin]).size() == range.depth) {
      nodes_[range.node].id = order[range.begin++];
    }
    nodes_[range.node].first_child = static_cast<std::int32_t>(nodes_.size());
    while (range.begin < range.end) {
      const char byte = text(order[range.begin])[range.depth];
      std::size_t end = range.begin;
      while (end < range.end && text(order[end])[range.depth] == byte) {
        ++end;
      }
      open.push_back({nodes_.size(), range.begin, end, range.depth + 1});
      nodes_.emplace_back().byte = static_cast<unsigned char>(byte);
      ++nodes_[range.node].num_children;
      range.begin = end;
    }
  }
}

std::int32_t Unigram::child(std::int32_t node, unsigned char byte) const {
  const Node& parent = nodes_[static_cast<std::size_t>(node)];
  const auto first = nodes_.begin() + parent.first_child;
  const auto last = first + parent.num_children;
  const auto found = std::lower_bound(
      first, last, byte, [](const Node& candidate, unsigned char b) { return candidate.byte < b; });
  return found == last || found->byte != byte ? -1
                                              : static_cast<std::int32_t>(found - nodes_.begin());
}

std::optional<std::int64_t> Unigram::id(std::string_view piece) const {
  std::int32_t node = 0;
  for (const char c : piece) {
    node = child(node, static_cast<unsigned char>(c));
    if (node < 0) {
      return std::nullopt;
    }
  }
  const std::int32_t found = nodes_[static_cast<std::size_t>(node)].id;
  return found < 0 ? std::nullopt : std::optional<std::int64_t>(found);
}

void Unigram::encode(std::string_view word, std::vector<Token>& tokens) const {
  struct Best {  // the best way to reach a byte offset
    double score = 0;
    std::int64_t id = -1;
    std::size_t begin = 0;
    bool reached = false;
  };
  std::vector<Best> best(word.size() + 1);
  const auto offer = [&](std::size_t begin, std::size_t end, std::int64_t id, double score) {
    const double sum = score + best[begin].score;
    if (!best[end].reached || sum > best[end].score) {
      best[end] = {sum, id, begin, true};
    }
  };
  for (std::size_t begin = 0; begin < word.size();) {
    std::size_t next = begin;
    next_code_point(word, next);
    bool has_character = false;
    std::int32_t node = 0;
    for (std::size_t end = begin; end < word.size();) {
      node = child(node, static_cast<unsigned char>(word[end]));
      if (node < 0) {
        break;
      }
      ++end;
      const std::int32_t id = nodes_[static_cast<std::size_t>(node)].id;
      if (id >= 0) {
        offer(begin, end, id, scores_[static_cast<std::size_t>(id)]);
        has_character = has_character || end == next;
      }
    }
    if (!has_character) {
      offer(begin, next, unk_id_, unk_score_);
    }
    begin = next;
  }
  const std::size_t first = tokens.size();
  for (std::size_t end = word.size(); end > 0; end = best[end].begin) {
    const Best& step = best[end];
    if (step.id == unk_id_ && tokens.size() > first && tokens.back().id == unk_id_) {
      tokens.back().begin = step.begin;
    } else {
      tokens.push_back({step.id, step.begin});
    }
  }
  std::reverse(tokens.begin() + static_cast<std::ptrdiff_t>(first), tokens.end());
}

}  // namespace steadyflux
