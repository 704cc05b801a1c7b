// CLIP's text encoder (transformers: CLIPTextModel). FLUX uses its pooled output only: the final
// hidden state at the end-of-text token, without projection.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

#include "config/model_config.h"
#include "nn/encoder_layer.h"
#include "nn/layers.h"
#include "nn/weight_provider.h"

namespace steadyflux {

struct ClipTextModel {
  explicit ClipTextModel(ClipTextConfig config);

  ClipTextConfig config;
  HostEmbedding token_embedding;
  Embedding position_embedding;
  std::vector<EncoderLayer> layers;
  LayerNorm final_layer_norm;

  // Every tensor; names as transformers 5 writes them, older files have "text_model." in front.
  std::vector<TensorSlot> slots();
  // What forward takes leases on (a unit is a layer), and what it wants in place all the time.
  std::vector<WeightUnit> units();
  std::vector<TensorSlot> fixed_slots();
  // input_ids [B, S] (int64, on the CPU) -> pooled_prompt_embeds [B, hidden_size] of each. The
  // prompts go in turn through each unit of weights; what comes out does not depend on how many
  // there are.
  std::vector<at::Tensor> forward(std::span<const at::Tensor> input_ids,
                                  WeightProvider& weights) const;
  // Of one, with all weights bound.
  at::Tensor forward(const at::Tensor& input_ids) const;

 private:
  at::Tensor pool(const at::Tensor& hidden_states, const at::Tensor& input_ids) const;
};

}  // namespace steadyflux
