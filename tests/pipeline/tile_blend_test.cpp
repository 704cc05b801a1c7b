#include "pipeline/tile_blend.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace steadyflux {
namespace {

TEST(TileBlend, GivesBackWhatWasCut) {
  at::manual_seed(1);
  const auto whole = at::randn({20, 33, 3});
  for (const std::int64_t tile : {7, 16, 64}) {
    const auto grid = tile_grid(20, 33, tile);
    TileBlend blend(grid, 3);
    for (std::int64_t i = 0; i < grid.count(); ++i) blend.add(i, cut_tile(whole, grid, i));
    // Weights add up to 1 within some ulps of a float.
    EXPECT_LT((blend.whole() - whole).abs().max().item<float>(), 1e-5) << tile;
  }
}

TEST(TileBlend, LeavesNoStepBetweenTilesThatDiffer) {
  const auto grid = tile_grid(1, 160, 64);
  TileBlend blend(grid, 1);
  for (std::int64_t i = 0; i < grid.count(); ++i) {
    blend.add(i, at::full({1, 64, 1}, static_cast<double>(i % 2), at::kBFloat16));
  }
  const auto line = blend.whole().flatten();
  const auto steps = (line.narrow(0, 1, 159) - line.narrow(0, 0, 159)).abs();
  EXPECT_LT(steps.max().item<float>(), 0.1);  // of 1, over 16 places in common
  EXPECT_EQ(line[0].item<float>(), 0);
  EXPECT_GT(line.max().item<float>(), 0.9);
}

}  // namespace
}  // namespace steadyflux
