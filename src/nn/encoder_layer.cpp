#include "nn/encoder_layer.h"

#include <ATen/ATen.h>

namespace steadyflux {
namespace {

at::Tensor activate(const at::Tensor& x, const std::string& hidden_act) {
  if (hidden_act == "quick_gelu") return x * at::sigmoid(1.702 * x);
  return at::gelu(x, hidden_act == "gelu_pytorch_tanh" ? "tanh" : "none");
}

}  // namespace

void EncoderLayer::visit(const SlotScope& scope, std::int64_t hidden_size,
                         std::int64_t intermediate_size) {
  const auto d = hidden_size;
  layer_norm1.visit(scope.scope("layer_norm1"), d);
  layer_norm2.visit(scope.scope("layer_norm2"), d);
  const auto attn = scope.scope("self_attn");
  self_attn.q_proj.visit(attn.scope("q_proj"), d, d);
  self_attn.k_proj.visit(attn.scope("k_proj"), d, d);
  self_attn.v_proj.visit(attn.scope("v_proj"), d, d);
  self_attn.out_proj.visit(attn.scope("out_proj"), d, d);
  mlp.fc1.visit(scope.scope("mlp").scope("fc1"), d, intermediate_size);
  mlp.fc2.visit(scope.scope("mlp").scope("fc2"), intermediate_size, d);
}

at::Tensor EncoderLayer::forward(const at::Tensor& hidden_states, const Options& options) const {
  const auto head_dim = hidden_states.size(-1) / options.num_attention_heads;
  const auto x = layer_norm1(hidden_states, options.layer_norm_eps);
  const auto attn = attention(split_heads(self_attn.q_proj(x), head_dim),
                              split_heads(self_attn.k_proj(x), head_dim),
                              split_heads(self_attn.v_proj(x), head_dim), {}, options.is_causal);
  const auto h = hidden_states + self_attn.out_proj(attn);
  const auto y = layer_norm2(h, options.layer_norm_eps);
  return h + mlp.fc2(activate(mlp.fc1(y), options.hidden_act));
}

}  // namespace steadyflux
