// T5 v1.1's encoder (transformers: T5EncoderModel). No biases, RMS norms, gated tanh-GELU, relative
// position bias from the first layer shared by all. There is no attention mask: FLUX was trained
// with the padding attended.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <span>
#include <vector>

#include "config/model_config.h"
#include "nn/layers.h"
#include "nn/weight_provider.h"

namespace steadyflux {

struct T5Block {
  static constexpr std::size_t kUnits = 3;  // SelfAttention, wi, wo

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

  // The weights of forward, unit by unit in the order of use.
  std::vector<WeightUnit> units(const std::string& name, const T5Config& config);
  // The block in three parts, one for each unit. position_bias [1, heads, S, S], hidden states
  // [B, S, d_model] in and out, between wi and wo [B, S, d_ff].
  at::Tensor attend(const at::Tensor& hidden_states, const at::Tensor& position_bias,
                    const T5Config& config) const;
  at::Tensor widen(const at::Tensor& hidden_states, const T5Config& config) const;
  at::Tensor narrow(const at::Tensor& hidden_states, const at::Tensor& gated) const;
};

struct T5Encoder {
  explicit T5Encoder(T5Config config);

  T5Config config;
  HostEmbedding shared;
  std::vector<T5Block> block;
  at::Tensor final_layer_norm;

  // Every tensor of the checkpoint.
  std::vector<TensorSlot> slots();
  // What forward takes leases on, in the order of use, and what it wants in place all the time.
  std::vector<WeightUnit> units();
  std::vector<TensorSlot> fixed_slots();
  // input_ids [B, S] (int64, on the CPU) -> prompt_embeds [B, S, d_model] of each. The prompts go
  // in turn through each unit of weights, which is leased once for all of them; what comes out does
  // not depend on how many there are. `after_block` hears of every block.
  using AfterBlock = std::function<void(std::int64_t)>;
  std::vector<at::Tensor> forward(std::span<const at::Tensor> input_ids, WeightProvider& weights,
                                  const AfterBlock& after_block = {}) const;
  // Of one, with all weights bound.
  at::Tensor forward(const at::Tensor& input_ids) const;
};

// [1, heads, S, S] from relative_attention_bias [num_buckets, heads].
at::Tensor t5_position_bias(const Embedding& relative_attention_bias, std::int64_t length,
                            const T5Config& config);

}  // namespace steadyflux
