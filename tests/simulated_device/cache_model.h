// What a caching allocator has of the device: stretches in use, and freed ones that are kept for
// later. As CUDA's with expandable segments: a request takes the smallest free stretch that is
// large enough, of those of its stream, and leaves the rest of it free; free neighbours become one;
// what is free can be given back at any time. Positions only, no memory.
#pragma once

#include <cstdint>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <tuple>

namespace steadyflux::testing {

class CacheModel {
 public:
  // From what is kept; nullopt: nothing fits.
  std::optional<std::int64_t> reuse(std::int64_t stream, std::int64_t size) {
    const auto best = free_.lower_bound({stream, size, 0});
    if (best == free_.end() || std::get<0>(*best) != stream) return std::nullopt;
    const auto position = std::get<2>(*best);
    auto& piece = pieces_.at(position);
    free_.erase(best);
    free_bytes_ -= size;
    if (piece.size > size) put_free(position + size, {stream, piece.size - size});
    piece.size = size;
    piece.used = true;
    return position;
  }

  // From the device.
  std::int64_t grow(std::int64_t stream, std::int64_t size) {
    const auto position = end_;
    end_ += size + 1;  // a gap: it is no neighbour of anything
    pieces_[position] = {stream, size, true};
    reserved_ += size;
    return position;
  }

  void free(std::int64_t position) {
    auto it = pieces_.find(position);
    it->second.used = false;
    free_bytes_ += it->second.size;
    if (const auto next = std::next(it); next != pieces_.end() && joins(it, next)) {
      take_free(next);
      it->second.size += next->second.size;
      pieces_.erase(next);
    }
    if (it != pieces_.begin() && joins(std::prev(it), it)) {
      const auto previous = std::prev(it);
      take_free(previous);
      previous->second.size += it->second.size;
      pieces_.erase(it);
      it = previous;
    }
    put_free(it->first, it->second);
  }

  void give_back() {
    for (const auto& [stream, size, position] : free_) pieces_.erase(position);
    free_.clear();
    reserved_ -= free_bytes_;
    free_bytes_ = 0;
  }

  std::int64_t reserved() const { return reserved_; }
  std::int64_t free_bytes() const { return free_bytes_; }

 private:
  struct Piece {
    std::int64_t stream = 0, size = 0;
    bool used = false;
  };
  using Pieces = std::map<std::int64_t, Piece>;

  static bool joins(Pieces::iterator a, Pieces::iterator b) {
    return !a->second.used && !b->second.used && a->first + a->second.size == b->first;
  }
  void put_free(std::int64_t position, Piece piece) {
    pieces_[position] = piece;
    free_.insert({piece.stream, piece.size, position});
  }
  void take_free(Pieces::iterator it) {
    free_.erase({it->second.stream, it->second.size, it->first});
  }

  Pieces pieces_;                                                        // by position
  std::set<std::tuple<std::int64_t, std::int64_t, std::int64_t>> free_;  // stream, size, position
  std::int64_t reserved_ = 0, free_bytes_ = 0, end_ = 0;
};

}  // namespace steadyflux::testing
