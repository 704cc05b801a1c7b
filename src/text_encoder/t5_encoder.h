// T5 v1.1's encoder (transformers: T5EncoderModel). No biases, RMS norms, gated tanh-GELU, relative
// position bias from the first layer shared by all. There is no attention mask: FLUX was trained
// with the padding attended.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "config/model_config.h"
#include "nn/layers.h"

namespace steadyflux {

struct T5Block {
  struct {
    struct {
      Linear q, k, v, o;
      Embedding relative_attention_bias;  // layer 0 only
    } self_attention;
    at::Tensor layer_norm;
  } attention_layer;  // layer.0
  struct {
    struct {
      Linear wi_0, wi_1, wo;
    } dense_relu_dense;
    at::Tensor layer_norm;
  } ff_layer;  // layer.1

  void visit(const SlotScope& scope, const T5Config& config, bool has_relative_attention_bias);
  // hidden_states [B, S, d_model], position_bias [1, heads, S, S] -> [B, S, d_model].
  at::Tensor forward(const at::Tensor& hidden_states, const at::Tensor& position_bias,
                     const T5Config& config) const;
};

struct T5Encoder {
  explicit T5Encoder(T5Config config);

  T5Config config;
  Embedding shared;
  std::vector<T5Block> block;
  at::Tensor final_layer_norm;

  std::vector<TensorSlot> slots();
  // input_ids [B, S] (int64) -> prompt_embeds [B, S, d_model]. `after_block` hears of every block.
  at::Tensor forward(const at::Tensor& input_ids,
                     const std::function<void(std::int64_t)>& after_block = {}) const;
};

// [1, heads, S, S] from relative_attention_bias [num_buckets, heads].
at::Tensor t5_position_bias(const Embedding& relative_attention_bias, std::int64_t length,
                            const T5Config& config);

}  // namespace steadyflux
