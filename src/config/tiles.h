// Tiles that a large picture is made in, where the model sees one tile at a time. Written once, for
// those who compute and those who foretell what it takes. Torch-free.
#pragma once

#include <cstdint>
#include <vector>

namespace steadyflux {

// Rows and columns of packed tokens.
struct TokenGrid {
  std::int64_t height = 0, width = 0;
  std::int64_t tokens() const { return height * width; }
  bool operator==(const TokenGrid&) const = default;
};

// Neighbouring tiles have at least this part of a tile in common.
constexpr std::int64_t kTileOverlapShare = 4;

// Lengths are in one unit: packed tokens, latents or pixels. All tiles have the same size.
struct TileGrid {
  std::int64_t height = 0, width = 0;            // of the whole
  std::int64_t tile_height = 0, tile_width = 0;  // of a tile
  std::vector<std::int64_t> tops, lefts;         // where they begin, rising

  std::int64_t count() const;
  // Of tile `i`, row by row.
  std::int64_t top(std::int64_t i) const;
  std::int64_t left(std::int64_t i) const;
  // The same in a unit that is `factor` times as small.
  TileGrid scaled(std::int64_t factor) const;
};

// As few tiles as cover the whole, at even distances. One tile, as large as the whole, along sides
// that are not longer than `tile`, and where `tile` is 0.
TileGrid tile_grid(std::int64_t height, std::int64_t width, std::int64_t tile);

// Of a picture in packed tokens, `token` pixels a side; `tile` in pixels as well.
TileGrid token_tiles(std::int64_t height, std::int64_t width, std::int64_t tile,
                     std::int64_t token);

// How much the places of tile `i` of those that begin at `starts` count, along one side of the
// whole: they rise and fall along what a tile has in common with the next ones, and the weights of
// all tiles at a place add up to 1.
std::vector<float> tile_weights(const std::vector<std::int64_t>& starts, std::int64_t tile,
                                std::size_t i);

}  // namespace steadyflux
