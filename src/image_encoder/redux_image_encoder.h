// What FLUX.1-Redux was trained for (diffusers: ReduxImageEncoder): tokens of SigLIP become tokens
// as T5 would give them.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

#include "config/model_config.h"
#include "nn/layers.h"
#include "nn/weight_provider.h"

namespace steadyflux {

struct ReduxImageEncoder {
  explicit ReduxImageEncoder(const ReduxImageEncoderConfig& config_in) : config(config_in) {}

  ReduxImageEncoderConfig config;
  Linear redux_up, redux_down;

  // Every tensor; forward takes leases on the two layers, and wants nothing in place.
  std::vector<TensorSlot> slots() { return all_slots({}, units()); }
  std::vector<WeightUnit> units();
  static std::vector<TensorSlot> fixed_slots() { return {}; }
  // last_hidden_state [B, S, redux_dim] -> image_embeds [B, S, txt_in_features] of each picture.
  std::vector<at::Tensor> forward(std::span<const at::Tensor> hidden_states,
                                  WeightProvider& weights) const;
};

}  // namespace steadyflux
