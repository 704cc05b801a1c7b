#include "config/tiles.h"

#include <algorithm>
#include <cstddef>

namespace steadyflux {
namespace {

std::vector<std::int64_t> starts_along(std::int64_t side, std::int64_t tile) {
  if (side <= tile) return {0};
  const auto overlap = std::max<std::int64_t>(tile / kTileOverlapShare, 1);
  const auto stride = std::max<std::int64_t>(tile - overlap, 1);
  const auto gaps = (side - tile + stride - 1) / stride;
  std::vector<std::int64_t> starts;
  for (std::int64_t i = 0; i <= gaps; ++i) starts.push_back(i * (side - tile) / gaps);
  return starts;
}

std::vector<std::int64_t> times(std::vector<std::int64_t> values, std::int64_t factor) {
  for (auto& value : values) value *= factor;
  return values;
}

// Of a place in tile `i`: how far it is from the nearer end where the tile has a neighbour, up to
// what neighbours have in common.
double height_at(std::int64_t place, std::int64_t tile, std::int64_t overlap, std::size_t i,
                 std::size_t count) {
  auto height = static_cast<double>(overlap);
  if (i > 0) height = std::min(height, static_cast<double>(place) + 0.5);
  if (i + 1 < count) height = std::min(height, static_cast<double>(tile - 1 - place) + 0.5);
  return height;
}

}  // namespace

std::int64_t TileGrid::count() const {
  return static_cast<std::int64_t>(tops.size() * lefts.size());
}

std::int64_t TileGrid::top(std::int64_t i) const {
  return tops[static_cast<std::size_t>(i) / lefts.size()];
}

std::int64_t TileGrid::left(std::int64_t i) const {
  return lefts[static_cast<std::size_t>(i) % lefts.size()];
}

TileGrid TileGrid::scaled(std::int64_t factor) const {
  return {height * factor,     width * factor,      tile_height * factor,
          tile_width * factor, times(tops, factor), times(lefts, factor)};
}

TileGrid tile_grid(std::int64_t height, std::int64_t width, std::int64_t tile) {
  const auto tile_height = tile > 0 ? std::min(tile, height) : height;
  const auto tile_width = tile > 0 ? std::min(tile, width) : width;
  return {height,
          width,
          tile_height,
          tile_width,
          starts_along(height, tile_height),
          starts_along(width, tile_width)};
}

TileGrid token_tiles(std::int64_t height, std::int64_t width, std::int64_t tile,
                     std::int64_t token) {
  return tile_grid(height / token, width / token, tile / token);
}

std::vector<float> tile_weights(const std::vector<std::int64_t>& starts, std::int64_t tile,
                                std::size_t i) {
  auto overlap = tile;
  for (std::size_t k = 1; k < starts.size(); ++k) {
    overlap = std::min(overlap, starts[k - 1] + tile - starts[k]);
  }
  std::vector<float> weights;
  for (std::int64_t place = 0; place < tile; ++place) {
    double sum = 0;
    for (std::size_t k = 0; k < starts.size(); ++k) {
      const auto there = starts[i] + place - starts[k];
      if (there >= 0 && there < tile) sum += height_at(there, tile, overlap, k, starts.size());
    }
    weights.push_back(static_cast<float>(height_at(place, tile, overlap, i, starts.size()) / sum));
  }
  return weights;
}

}  // namespace steadyflux
