// Tiles cover the whole, overlap enough, and their weights add up to one everywhere.
#include "config/tiles.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace steadyflux {
namespace {

using Starts = std::vector<std::int64_t>;

TEST(TileGrid, IsOneTileForWhatFits) {
  for (const std::int64_t tile : {0, 64, 100}) {
    const auto grid = tile_grid(64, 48, tile);
    EXPECT_EQ(grid.count(), 1);
    EXPECT_EQ(grid.tile_height, 64);
    EXPECT_EQ(grid.tile_width, 48);
  }
}

TEST(TileGrid, IsCutOnlyAlongTheLongSide) {
  const auto grid = tile_grid(32, 200, 64);
  EXPECT_EQ(grid.tile_height, 32);
  EXPECT_EQ(grid.tile_width, 64);
  EXPECT_EQ(grid.tops, Starts{0});
  EXPECT_EQ(grid.lefts, (Starts{0, 45, 90, 136}));  // 136 / 3 apart, where 48 is allowed
}

TEST(TileGrid, GoesRowByRow) {
  const auto grid = tile_grid(8, 12, 4);
  EXPECT_EQ(grid.tops, (Starts{0, 2, 4}));
  EXPECT_EQ(grid.lefts, (Starts{0, 2, 5, 8}));
  EXPECT_EQ(grid.count(), 12);
  EXPECT_EQ(grid.top(5), 2);
  EXPECT_EQ(grid.left(5), 2);
  EXPECT_EQ(grid.top(11), 4);
  EXPECT_EQ(grid.left(11), 8);
}

TEST(TileGrid, HasTheSamePlacesInASmallerUnit) {
  const auto grid = tile_grid(8, 12, 4).scaled(16);
  EXPECT_EQ(grid.height, 128);
  EXPECT_EQ(grid.tile_width, 64);
  EXPECT_EQ(grid.lefts, (Starts{0, 32, 80, 128}));
}

TEST(TileGrid, CoversTheWholeWithAQuarterInCommon) {
  for (std::int64_t tile = 2; tile <= 70; ++tile) {
    for (std::int64_t side = 1; side <= 300; side += 7) {
      const auto grid = tile_grid(side, 1, tile);
      EXPECT_EQ(grid.tops.front(), 0);
      EXPECT_EQ(grid.tops.back() + grid.tile_height, side);
      for (std::size_t i = 1; i < grid.tops.size(); ++i) {
        const auto common = grid.tops[i - 1] + tile - grid.tops[i];
        EXPECT_GE(common, std::max<std::int64_t>(tile / 4, 1)) << side << " in tiles of " << tile;
        EXPECT_GT(grid.tops[i], grid.tops[i - 1]);
      }
    }
  }
}

TEST(TileWeights, AddUpToOneAndFadeTowardsTheNeighbour) {
  for (const std::int64_t side : {64, 65, 90, 150, 333}) {
    const auto grid = tile_grid(side, 1, 64);
    std::vector<double> sum(static_cast<std::size_t>(side), 0);
    for (std::size_t i = 0; i < grid.tops.size(); ++i) {
      const auto weights = tile_weights(grid.tops, grid.tile_height, i);
      for (std::size_t place = 0; place < weights.size(); ++place) {
        EXPECT_GT(weights[place], 0);
        sum[static_cast<std::size_t>(grid.tops[i]) + place] += weights[place];
      }
      if (i + 1 < grid.tops.size()) {
        EXPECT_LT(weights.back(), 0.05);  // no step where the tile ends
      }
      if (i > 0) {
        EXPECT_LT(weights.front(), 0.05);
      }
    }
    for (const auto value : sum) EXPECT_NEAR(value, 1, 1e-6);  // of a few floats
  }
}

TEST(TileWeights, AreOneForASingleTile) {
  for (const auto weight : tile_weights({0}, 5, 0)) EXPECT_EQ(weight, 1.0f);
}

}  // namespace
}  // namespace steadyflux
