#include "text_encoder/clip_text_model.h"

#include <ATen/ATen.h>

namespace steadyflux {
ClipTextModel::ClipTextModel(ClipTextConfig config_in)
    : config(std::move(config_in)), layers(static_cast<std::size_t>(config.num_hidden_layers)) {}

std::vector<TensorSlot> ClipTextModel::fixed_slots() {
  std::vector<TensorSlot> slots;
  const SlotScope root(slots);
  const auto embeddings = root.scope("embeddings");
  token_embedding.visit(embeddings.scope("token_embedding"), config.vocab_size, config.hidden_size);
  position_embedding.visit(embeddings.scope("position_embedding"), config.max_position_embeddings,
                           config.hidden_size);
  final_layer_norm.visit(root.scope("final_layer_norm"), config.hidden_size);
  return slots;
}

std::vector<WeightUnit> ClipTextModel::units() {
  std::vector<WeightUnit> units;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    units.push_back({"encoder.layers." + std::to_string(i), {}});
    layers[i].visit(SlotScope(units.back().slots, units.back().name + "."), config.hidden_size,
                    config.intermediate_size);
  }
  return units;
}

std::vector<TensorSlot> ClipTextModel::slots() { return all_slots(fixed_slots(), units()); }

at::Tensor ClipTextModel::forward(const at::Tensor& input_ids) const {
  BoundWeights weights;
  return forward({&input_ids, 1}, weights).front();
}

std::vector<at::Tensor> ClipTextModel::forward(std::span<const at::Tensor> input_ids,
                                               WeightProvider& weights) const {
  std::vector<at::Tensor> hidden_states;  // [B, S, D]
  for (const auto& ids : input_ids) {
    hidden_states.push_back(token_embedding.lookup(ids, position_embedding.weight) +
                            position_embedding.weight.narrow(0, 0, ids.size(1)));
  }
  const EncoderLayer::Options options{config.num_attention_heads, config.layer_norm_eps,
                                      config.hidden_act, /*is_causal=*/true};
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const auto lease = weights.acquire(i);
    for (auto& h : hidden_states) h = layers[i].forward(h, options);
  }
  std::vector<at::Tensor> pooled;
  for (std::size_t i = 0; i < input_ids.size(); ++i) {
    pooled.push_back(pool(final_layer_norm(hidden_states[i], config.layer_norm_eps), input_ids[i]));
  }
  return pooled;
}

// The hidden state of the end of the text: [B, S, D] -> [B, D].
at::Tensor ClipTextModel::pool(const at::Tensor& hidden_states, const at::Tensor& input_ids) const {
  // eos_token_id 2 is what old configs say wrongly; transformers then takes the largest id's place.
  const auto marks =
      config.eos_token_id == 2 ? input_ids : input_ids.eq(config.eos_token_id).to(at::kInt);
  const auto eos = marks.argmax(-1).to(hidden_states.device());  // [B], the first of equals
  const auto batch = at::arange(input_ids.size(0), eos.options());
  return hidden_states.index({batch, eos});
}

}  // namespace steadyflux
