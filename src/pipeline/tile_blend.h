// Parts of a large tensor: cut out, and put together again so that no seam is left.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "config/tiles.h"

namespace steadyflux {

// Tile `i` of `whole` [H, W, C] -> [h, w, C], a view.
at::Tensor cut_tile(const at::Tensor& whole, const TileGrid& grid, std::int64_t i);

class TileBlend {
 public:
  // `grid` is in the unit of the tiles' places.
  TileBlend(const TileGrid& grid, std::int64_t channels);

  // [h, w, C], of any dtype and device.
  void add(std::int64_t i, const at::Tensor& tile);
  // After all tiles were added once: [H, W, C] fp32, in RAM.
  const at::Tensor& whole() const { return whole_; }

 private:
  const TileGrid& grid_;
  std::vector<at::Tensor> rows_, columns_;  // weights of the tiles: [h, 1, 1] and [1, w, 1]
  at::Tensor whole_;
};

}  // namespace steadyflux
