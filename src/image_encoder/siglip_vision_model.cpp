#include "image_encoder/siglip_vision_model.h"

#include <ATen/ATen.h>

#include <string>
#include <utility>

#include "nn/products.h"

namespace steadyflux {

SiglipVisionModel::SiglipVisionModel(SiglipVisionConfig config_in)
    : config(std::move(config_in)), layers(static_cast<std::size_t>(config.num_hidden_layers)) {}

std::vector<TensorSlot> SiglipVisionModel::fixed_slots() {
  std::vector<TensorSlot> slots;
  const SlotScope root(slots);
  const auto embeddings = root.scope("embeddings"), patch = embeddings.scope("patch_embedding");
  patch.tensor("weight", patch_embedding.weight,
               {config.hidden_size, 3, config.patch_size, config.patch_size});
  patch.tensor("bias", patch_embedding.bias, {config.hidden_size});
  position_embedding.visit(embeddings.scope("position_embedding"), config.num_patches(),
                           config.hidden_size);
  post_layernorm.visit(root.scope("post_layernorm"), config.hidden_size);
  return slots;
}

std::vector<WeightUnit> SiglipVisionModel::units() {
  std::vector<WeightUnit> units;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    units.push_back({"encoder.layers." + std::to_string(i), {}});
    layers[i].visit(SlotScope(units.back().slots, units.back().name + "."), config.hidden_size,
                    config.intermediate_size);
  }
  return units;
}

std::vector<TensorSlot> SiglipVisionModel::slots() { return all_slots(fixed_slots(), units()); }

// One token for each patch, row by row: [B, 3, H, W] -> [B, num_patches, hidden_size].
at::Tensor SiglipVisionModel::embed(const at::Tensor& pixel_values) const {
  const auto patches = products::conv2d(pixel_values, patch_embedding.weight, patch_embedding.bias,
                                        {config.patch_size, config.patch_size}, /*padding=*/{0, 0});
  return patches.flatten(2).transpose(1, 2) + position_embedding.weight;
}

std::vector<at::Tensor> SiglipVisionModel::forward(std::span<const at::Tensor> pixel_values,
                                                   WeightProvider& weights) const {
  std::vector<at::Tensor> hidden_states;
  for (const auto& pixels : pixel_values) hidden_states.push_back(embed(pixels));
  const EncoderLayer::Options options{config.num_attention_heads, config.layer_norm_eps,
                                      "gelu_pytorch_tanh", /*is_causal=*/false};
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const auto lease = weights.acquire(i);
    for (auto& h : hidden_states) h = layers[i].forward(h, options);
  }
  for (auto& h : hidden_states) h = post_layernorm(h, config.layer_norm_eps);
  return hidden_states;
}

}  // namespace steadyflux
