#include "image_encoder/redux_image_encoder.h"

#include <ATen/ATen.h>

namespace steadyflux {

std::vector<WeightUnit> ReduxImageEncoder::units() {
  std::vector<WeightUnit> units = {{"redux_up", {}}, {"redux_down", {}}};
  redux_up.visit(SlotScope(units[0].slots, "redux_up."), config.redux_dim, config.inner_dim());
  redux_down.visit(SlotScope(units[1].slots, "redux_down."), config.inner_dim(),
                   config.txt_in_features);
  return units;
}

std::vector<at::Tensor> ReduxImageEncoder::forward(std::span<const at::Tensor> hidden_states,
                                                   WeightProvider& weights) const {
  std::vector<at::Tensor> values;
  {
    const auto lease = weights.acquire(0);
    for (const auto& x : hidden_states) values.push_back(at::silu(redux_up(x)));
  }
  const auto lease = weights.acquire(1);
  for (auto& x : values) x = redux_down(x);
  return values;
}

}  // namespace steadyflux
