#include "transformer/blocks.h"

#include <ATen/ATen.h>

namespace steadyflux {
namespace {

constexpr double kNormEps = 1e-6;
constexpr double kHalfMax = 65504.0;

// q or k of one stream: [B, S, dim] -> [B, S, heads, head_dim], RMS-normalised per head.
at::Tensor normed_heads(const at::Tensor& x, const at::Tensor& norm_weight) {
  const auto head_dim = norm_weight.size(0);
  return at::rms_norm(x.unflatten(-1, {-1, head_dim}), {head_dim}, norm_weight, kNormEps);
}

at::Tensor rotated(at::Tensor x, const RotaryEmbedding& emb) {
  x = x.contiguous();
  apply_rotary_emb_(x, emb);
  return x.transpose(1, 2);  // [B, heads, S, head_dim]
}

// residual += gate * x, destroying x. gate [B, dim].
void add_gated_(at::Tensor& residual, at::Tensor x, const at::Tensor& gate) {
  residual.add_(x.mul_(gate.unsqueeze(1)));
}

// fp16 alone can overflow here; the reference clips the same places.
void clip_half_(at::Tensor& x) {
  if (x.scalar_type() == at::kHalf) x.clamp_(-kHalfMax, kHalfMax);
}

}  // namespace

at::Tensor modulated_layer_norm(const at::Tensor& x, const at::Tensor& shift,
                                const at::Tensor& scale) {
  auto y = layer_norm_no_affine(x, kNormEps);
  return y.mul_((scale + 1).unsqueeze(1)).add_(shift.unsqueeze(1));
}

void FeedForward::visit(const SlotScope& scope, std::int64_t dim) {
  const auto net = scope.scope("net");
  net_0_proj.visit(net.scope("0").scope("proj"), dim, 4 * dim);
  net_2.visit(net.scope("2"), 4 * dim, dim);
}

at::Tensor FeedForward::forward(const at::Tensor& x) const {
  auto h = net_0_proj(x);
  return net_2(at::gelu_(h, "tanh"));
}

void FluxTransformerBlock::visit(const SlotScope& scope, const FluxTransformerConfig& config) {
  const auto dim = config.inner_dim();
  const auto head_dim = config.attention_head_dim;
  norm1.linear.visit(scope.scope("norm1").scope("linear"), dim, 6 * dim);
  norm1_context.linear.visit(scope.scope("norm1_context").scope("linear"), dim, 6 * dim);
  const auto a = scope.scope("attn");
  attn.to_q.visit(a.scope("to_q"), dim, dim);
  attn.to_k.visit(a.scope("to_k"), dim, dim);
  attn.to_v.visit(a.scope("to_v"), dim, dim);
  attn.to_out_0.visit(a.scope("to_out").scope("0"), dim, dim);
  attn.add_q_proj.visit(a.scope("add_q_proj"), dim, dim);
  attn.add_k_proj.visit(a.scope("add_k_proj"), dim, dim);
  attn.add_v_proj.visit(a.scope("add_v_proj"), dim, dim);
  attn.to_add_out.visit(a.scope("to_add_out"), dim, dim);
  a.tensor("norm_q.weight", attn.norm_q, {head_dim});
  a.tensor("norm_k.weight", attn.norm_k, {head_dim});
  a.tensor("norm_added_q.weight", attn.norm_added_q, {head_dim});
  a.tensor("norm_added_k.weight", attn.norm_added_k, {head_dim});
  ff.visit(scope.scope("ff"), dim);
  ff_context.visit(scope.scope("ff_context"), dim);
}

FluxTransformerBlock::Modulation FluxTransformerBlock::modulate(const at::Tensor& silu_temb) const {
  return {norm1.linear(silu_temb), norm1_context.linear(silu_temb)};
}

void FluxTransformerBlock::forward_(at::Tensor& hidden_states, at::Tensor& encoder_hidden_states,
                                    const Modulation& modulation,
                                    const RotaryEmbedding& image_rotary_emb,
                                    const FluxTransformerConfig& config) const {
  const auto m = modulation.norm1.chunk(6, -1);          // shift, scale, gate; shift, scale, gate
  const auto c = modulation.norm1_context.chunk(6, -1);  // the same for the text
  const auto text_len = encoder_hidden_states.size(1);
  const auto image_len = hidden_states.size(1);

  at::Tensor attn_output;  // [B, S_txt + S_img, dim]
  {
    const auto x = modulated_layer_norm(hidden_states, m[0], m[1]);
    const auto t = modulated_layer_norm(encoder_hidden_states, c[0], c[1]);
    const auto query = rotated(at::cat({normed_heads(attn.add_q_proj(t), attn.norm_added_q),
                                        normed_heads(attn.to_q(x), attn.norm_q)},
                                       1),
                               image_rotary_emb);
    const auto key = rotated(at::cat({normed_heads(attn.add_k_proj(t), attn.norm_added_k),
                                      normed_heads(attn.to_k(x), attn.norm_k)},
                                     1),
                             image_rotary_emb);
    const auto value =
        split_heads(at::cat({attn.add_v_proj(t), attn.to_v(x)}, 1), config.attention_head_dim);
    attn_output = attention(query, key, value);
  }
  add_gated_(hidden_states, attn.to_out_0(attn_output.narrow(1, text_len, image_len).contiguous()),
             m[2]);
  add_gated_(encoder_hidden_states,
             attn.to_add_out(attn_output.narrow(1, 0, text_len).contiguous()), c[2]);
  attn_output.reset();

  add_gated_(hidden_states, ff.forward(modulated_layer_norm(hidden_states, m[3], m[4])), m[5]);
  add_gated_(encoder_hidden_states,
             ff_context.forward(modulated_layer_norm(encoder_hidden_states, c[3], c[4])), c[5]);
  clip_half_(encoder_hidden_states);
}

void FluxSingleTransformerBlock::visit(const SlotScope& scope,
                                       const FluxTransformerConfig& config) {
  const auto dim = config.inner_dim();
  const auto head_dim = config.attention_head_dim;
  norm.linear.visit(scope.scope("norm").scope("linear"), dim, 3 * dim);
  const auto a = scope.scope("attn");
  attn.to_q.visit(a.scope("to_q"), dim, dim);
  attn.to_k.visit(a.scope("to_k"), dim, dim);
  attn.to_v.visit(a.scope("to_v"), dim, dim);
  a.tensor("norm_q.weight", attn.norm_q, {head_dim});
  a.tensor("norm_k.weight", attn.norm_k, {head_dim});
  proj_mlp.visit(scope.scope("proj_mlp"), dim, 4 * dim);
  proj_out.visit(scope.scope("proj_out"), 5 * dim, dim);
}

FluxSingleTransformerBlock::Modulation FluxSingleTransformerBlock::modulate(
    const at::Tensor& silu_temb) const {
  return norm.linear(silu_temb);
}

void FluxSingleTransformerBlock::forward_(at::Tensor& hidden_states, const Modulation& modulation,
                                          const RotaryEmbedding& image_rotary_emb,
                                          const FluxTransformerConfig& config) const {
  const auto m = modulation.chunk(3, -1);  // shift, scale, gate
  const auto dim = config.inner_dim();
  const auto batch = hidden_states.size(0), seq_len = hidden_states.size(1);

  // What proj_out reads: attention output and MLP side by side, written in place.
  auto joined = at::empty({batch, seq_len, 5 * dim}, hidden_states.options());
  {
    const auto x = modulated_layer_norm(hidden_states, m[0], m[1]);
    {
      auto mlp = joined.narrow(-1, dim, 4 * dim);
      at::gelu_out(mlp, proj_mlp(x), "tanh");
    }
    const auto query = rotated(normed_heads(attn.to_q(x), attn.norm_q), image_rotary_emb);
    const auto key = rotated(normed_heads(attn.to_k(x), attn.norm_k), image_rotary_emb);
    const auto value = split_heads(attn.to_v(x), config.attention_head_dim);
    joined.narrow(-1, 0, dim).copy_(attention(query, key, value));
  }
  add_gated_(hidden_states, proj_out(joined), m[2]);
  clip_half_(hidden_states);
}

}  // namespace steadyflux
