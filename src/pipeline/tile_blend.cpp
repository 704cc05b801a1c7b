#include "pipeline/tile_blend.h"

#include <ATen/ATen.h>

namespace steadyflux {
namespace {

std::vector<at::Tensor> weights_along(const std::vector<std::int64_t>& starts, std::int64_t tile,
                                      at::IntArrayRef shape) {
  std::vector<at::Tensor> weights;
  for (std::size_t i = 0; i < starts.size(); ++i) {
    weights.push_back(at::tensor(tile_weights(starts, tile, i)).view(shape));
  }
  return weights;
}

}  // namespace

at::Tensor cut_tile(const at::Tensor& whole, const TileGrid& grid, std::int64_t i) {
  return whole.narrow(0, grid.top(i), grid.tile_height).narrow(1, grid.left(i), grid.tile_width);
}

TileBlend::TileBlend(const TileGrid& grid, std::int64_t channels)
    : grid_(grid),
      rows_(weights_along(grid.tops, grid.tile_height, {grid.tile_height, 1, 1})),
      columns_(weights_along(grid.lefts, grid.tile_width, {1, grid.tile_width, 1})),
      whole_(at::zeros({grid.height, grid.width, channels}, at::kFloat)) {}

void TileBlend::add(std::int64_t i, const at::Tensor& tile) {
  const auto columns = grid_.lefts.size();
  const auto row = static_cast<std::size_t>(i) / columns,
             column = static_cast<std::size_t>(i) % columns;
  cut_tile(whole_, grid_, i)
      .add_(tile.to(at::kCPU, at::kFloat).mul(rows_[row]).mul_(columns_[column]));
}

}  // namespace steadyflux
