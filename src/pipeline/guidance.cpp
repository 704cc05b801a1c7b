#include "pipeline/guidance.h"

#include <ATen/ATen.h>

#include <utility>

namespace steadyflux {

at::Tensor true_cfg(const at::Tensor& positive, const at::Tensor& negative, double scale) {
  return negative + (positive - negative) * scale;
}

std::vector<at::Tensor> guided(const Chunk& chunk, std::span<const std::size_t> pictures,
                               std::vector<at::Tensor> predictions) {
  std::vector<at::Tensor> velocities;
  auto next = predictions.begin();
  for (const auto number : pictures) {
    const auto& picture = chunk.pictures[number];
    auto velocity = std::exchange(*next++, {});
    if (picture.negative) {
      velocity =
          true_cfg(velocity, std::exchange(*next++, {}), chunk.request(picture).true_cfg_scale);
    }
    velocities.push_back(std::move(velocity));
  }
  return velocities;
}

}  // namespace steadyflux
