// SigLIP's image encoder (transformers: SiglipVisionModel), which FLUX.1-Redux looks at pictures
// with. Used is the last hidden state, one token for every patch; the attention that pools them is
// left out.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

#include "config/model_config.h"
#include "nn/encoder_layer.h"
#include "nn/layers.h"
#include "nn/weight_provider.h"

namespace steadyflux {

struct SiglipVisionModel {
  explicit SiglipVisionModel(SiglipVisionConfig config);

  SiglipVisionConfig config;
  struct {
    at::Tensor weight;  // [hidden_size, 3, patch_size, patch_size]
    at::Tensor bias;    // [hidden_size]
  } patch_embedding;
  Embedding position_embedding;
  std::vector<EncoderLayer> layers;
  LayerNorm post_layernorm;

  // Every tensor that is used; names are those of transformers without "vision_model." in front.
  std::vector<TensorSlot> slots();
  // What forward takes leases on (a unit is a layer), and what it wants in place all the time.
  std::vector<WeightUnit> units();
  std::vector<TensorSlot> fixed_slots();
  // pixel_values [B, 3, image_size, image_size], -1..1, where and in the dtype that the weights
  // are -> last_hidden_state [B, num_patches, hidden_size] of each. The pictures go in turn through
  // each unit of weights; what comes out does not depend on how many there are.
  std::vector<at::Tensor> forward(std::span<const at::Tensor> pixel_values,
                                  WeightProvider& weights) const;

 private:
  at::Tensor embed(const at::Tensor& pixel_values) const;
};

}  // namespace steadyflux
