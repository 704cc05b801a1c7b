// The layer that the encoders of CLIP and SigLIP are made of (transformers: CLIPEncoderLayer,
// SiglipEncoderLayer, which have the same parts under the same names).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "nn/layers.h"

namespace steadyflux {

struct EncoderLayer {
  struct Options {
    std::int64_t num_attention_heads;
    double layer_norm_eps;
    std::string hidden_act;  // quick_gelu, gelu_pytorch_tanh; else gelu
    bool is_causal;
  };

  LayerNorm layer_norm1, layer_norm2;
  struct {
    Linear q_proj, k_proj, v_proj, out_proj;
  } self_attn;
  struct {
    Linear fc1, fc2;
  } mlp;

  void visit(const SlotScope& scope, std::int64_t hidden_size, std::int64_t intermediate_size);
  // hidden_states [B, S, hidden_size] -> the same shape.
  at::Tensor forward(const at::Tensor& hidden_states, const Options& options) const;
};

}  // namespace steadyflux
