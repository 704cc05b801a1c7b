#include "transformer/blocks.h"

#include <ATen/ATen.h>

#include "config/row_chunks.h"
#include "nn/row_kernels.h"

namespace steadyflux {
namespace {

constexpr double kNormEps = 1e-6;
constexpr double kHalfMax = 65504.0;

// The members of one unit, gathered by `visit`.
template <typename Visit>
WeightUnit make_unit(const std::string& name, Visit visit) {
  WeightUnit unit{name, {}};
  visit(unit.slots);
  return unit;
}

// q or k of one stream into its rows of the joint sequence: [S, dim] -> [S, heads, head_dim],
// RMS-normalised per head, then rotated.
void normed_and_rotated(const at::Tensor& x, const at::Tensor& norm_weight,
                        const RotaryEmbedding& emb, at::Tensor out) {
  if (has_row_kernels(x)) return normed_and_rotated_cpu(x, norm_weight, kNormEps, emb, out);
  const auto head_dim = norm_weight.size(0);
  for_row_chunks(x.size(0), kElementRows, [&](std::int64_t begin, std::int64_t count) {
    auto rows = out.narrow(0, begin, count);
    rows.copy_(at::rms_norm(x.narrow(0, begin, count).unflatten(-1, {-1, head_dim}), {head_dim},
                            norm_weight, kNormEps));
    auto batch = rows.unsqueeze(0);
    apply_rotary_emb_(batch, {emb.cos.narrow(0, begin, count), emb.sin.narrow(0, begin, count)});
  });
}

// out = gelu(x), with tanh; both [n, dim], and may be the same.
void gelu_(const at::Tensor& x, at::Tensor out) {
  if (has_row_kernels(x)) return gelu_cpu(x, out);
  at::gelu_out(out, x, "tanh");
}

// residual += gate * x, destroying x. gate [dim].
void add_gated_(at::Tensor residual, at::Tensor x, const at::Tensor& gate) {
  if (has_row_kernels(residual)) return add_gated_cpu_(residual, x, gate);
  residual.add_(x.mul_(gate));
}

// fp16 alone can overflow here; the reference clips the same places.
void clip_half_(at::Tensor& x) {
  if (x.scalar_type() == at::kHalf) x.clamp_(-kHalfMax, kHalfMax);
}

// Queries, keys and values of the joint sequence, [B, S, heads, head_dim].
struct JointHeads {
  JointHeads(std::int64_t batch, std::int64_t seq_len, const FluxTransformerConfig& config,
             const at::TensorOptions& options)
      : query(empty(batch, seq_len, config, options)),
        key(empty(batch, seq_len, config, options)),
        value(empty(batch, seq_len, config, options)) {}

  static at::Tensor empty(std::int64_t batch, std::int64_t seq_len,
                          const FluxTransformerConfig& config, const at::TensorOptions& options) {
    return at::empty({batch, seq_len, config.num_attention_heads, config.attention_head_dim},
                     options);
  }

  // -> [B, S, dim]. Gives up query, key and value.
  at::Tensor attend() {
    const auto q = std::move(query).transpose(1, 2), k = std::move(key).transpose(1, 2),
               v = std::move(value).transpose(1, 2);
    return attention(q, k, v);
  }

  at::Tensor query, key, value;
};

struct StreamProjections {
  const Linear &to_q, &to_k, &to_v;
  const at::Tensor &norm_q, &norm_k;
};

// Projects a stream [B, S, dim], modulated, into the rows of `heads` that begin at `offset`.
void project_stream(const at::Tensor& stream, const at::Tensor& shift, const at::Tensor& scale,
                    const StreamProjections& projections, const RotaryEmbedding& emb,
                    std::int64_t offset, JointHeads& heads) {
  for (std::int64_t b = 0; b < stream.size(0); ++b) {
    for_row_chunks(stream.size(1), kGemmRows, [&](std::int64_t begin, std::int64_t count) {
      const auto rows_of = [&](const at::Tensor& joint) {
        return joint.select(0, b).narrow(0, offset + begin, count);
      };
      const RotaryEmbedding rotation{emb.cos.narrow(0, offset + begin, count),
                                     emb.sin.narrow(0, offset + begin, count)};
      const auto x = modulated_layer_norm(stream.select(0, b).narrow(0, begin, count),
                                          shift.select(0, b), scale.select(0, b));
      normed_and_rotated(projections.to_q(x), projections.norm_q, rotation, rows_of(heads.query));
      normed_and_rotated(projections.to_k(x), projections.norm_k, rotation, rows_of(heads.key));
      rows_of(heads.value).flatten(1).copy_(projections.to_v(x));
    });
  }
}

// stream += gate * body(rows), chunk by chunk. body: (b, begin, count) -> [count, dim].
template <typename Body>
void update_rows_(at::Tensor& stream, const at::Tensor& gate, Body body) {
  for (std::int64_t b = 0; b < stream.size(0); ++b) {
    for_row_chunks(stream.size(1), kGemmRows, [&](std::int64_t begin, std::int64_t count) {
      add_gated_(stream.select(0, b).narrow(0, begin, count), body(b, begin, count),
                 gate.select(0, b));
    });
  }
}

void update_by_attention_(at::Tensor& stream, const at::Tensor& gate, const Linear& to_out,
                          const at::Tensor& attn_output, std::int64_t offset) {
  update_rows_(stream, gate, [&](std::int64_t b, std::int64_t begin, std::int64_t count) {
    return to_out(attn_output.select(0, b).narrow(0, offset + begin, count));
  });
}

void update_by_feed_forward_(at::Tensor& stream, const at::Tensor& shift, const at::Tensor& scale,
                             const at::Tensor& gate, const FeedForward& ff) {
  update_rows_(stream, gate, [&](std::int64_t b, std::int64_t begin, std::int64_t count) {
    return ff.forward(modulated_layer_norm(stream.select(0, b).narrow(0, begin, count),
                                           shift.select(0, b), scale.select(0, b)));
  });
}

}  // namespace

at::Tensor modulated_layer_norm(const at::Tensor& x, const at::Tensor& shift,
                                const at::Tensor& scale) {
  if (has_row_kernels(x)) return modulated_layer_norm_cpu(x, shift, scale, kNormEps);
  auto y = layer_norm_no_affine(x, kNormEps);
  return y.mul_(scale + 1).add_(shift);
}

void FeedForward::visit(const SlotScope& scope, std::int64_t dim) {
  const auto net = scope.scope("net");
  net_0_proj.visit(net.scope("0").scope("proj"), dim, 4 * dim);
  net_2.visit(net.scope("2"), 4 * dim, dim);
}

at::Tensor FeedForward::forward(const at::Tensor& x) const {
  auto h = net_0_proj(x);
  gelu_(h, h);
  return net_2(h);
}

std::vector<WeightUnit> FluxTransformerBlock::units(const std::string& name,
                                                    const FluxTransformerConfig& config) {
  const auto dim = config.inner_dim();
  const auto head_dim = config.attention_head_dim;
  std::vector<WeightUnit> units;
  units.push_back(make_unit(name + ".attn", [&](auto& slots) {
    const SlotScope a(slots, name + ".attn.");
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
  }));
  units.push_back(make_unit(name + ".ff",
                            [&](auto& slots) { ff.visit(SlotScope(slots, name + ".ff."), dim); }));
  units.push_back(make_unit(name + ".ff_context", [&](auto& slots) {
    ff_context.visit(SlotScope(slots, name + ".ff_context."), dim);
  }));
  return units;
}

std::vector<WeightUnit> FluxTransformerBlock::modulation_units(
    const std::string& name, const FluxTransformerConfig& config) {
  const auto dim = config.inner_dim();
  std::vector<WeightUnit> units;
  units.push_back(make_unit(name + ".norm1", [&](auto& slots) {
    norm1.linear.visit(SlotScope(slots, name + ".norm1.linear."), dim, 6 * dim);
  }));
  units.push_back(make_unit(name + ".norm1_context", [&](auto& slots) {
    norm1_context.linear.visit(SlotScope(slots, name + ".norm1_context.linear."), dim, 6 * dim);
  }));
  return units;
}

void FluxTransformerBlock::attend_(JointStream& stream, const Modulation& modulation,
                                   const FluxTransformerConfig& config) const {
  const auto m = modulation.norm1.chunk(6, -1);          // shift, scale, gate; shift, scale, gate
  const auto c = modulation.norm1_context.chunk(6, -1);  // the same for the text
  const auto text_len = stream.encoder_hidden_states.size(1);
  JointHeads heads(stream.joint.size(0), stream.joint.size(1), config, stream.joint.options());
  project_stream(
      stream.encoder_hidden_states, c[0], c[1],
      {attn.add_q_proj, attn.add_k_proj, attn.add_v_proj, attn.norm_added_q, attn.norm_added_k},
      stream.image_rotary_emb, 0, heads);
  project_stream(stream.hidden_states, m[0], m[1],
                 {attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k},
                 stream.image_rotary_emb, text_len, heads);
  const auto attn_output = heads.attend();  // [B, S_txt + S_img, dim]
  update_by_attention_(stream.hidden_states, m[2], attn.to_out_0, attn_output, text_len);
  update_by_attention_(stream.encoder_hidden_states, c[2], attn.to_add_out, attn_output, 0);
}

void FluxTransformerBlock::feed_forward_(JointStream& stream, const Modulation& modulation) const {
  const auto m = modulation.norm1.chunk(6, -1);
  update_by_feed_forward_(stream.hidden_states, m[3], m[4], m[5], ff);
}

void FluxTransformerBlock::feed_forward_context_(JointStream& stream,
                                                 const Modulation& modulation) const {
  const auto c = modulation.norm1_context.chunk(6, -1);
  update_by_feed_forward_(stream.encoder_hidden_states, c[3], c[4], c[5], ff_context);
  clip_half_(stream.encoder_hidden_states);
}

std::vector<WeightUnit> FluxSingleTransformerBlock::units(const std::string& name,
                                                          const FluxTransformerConfig& config) {
  const auto dim = config.inner_dim();
  const auto head_dim = config.attention_head_dim;
  std::vector<WeightUnit> units;
  units.push_back(make_unit(name + ".attn", [&](auto& slots) {
    const SlotScope a(slots, name + ".attn.");
    attn.to_q.visit(a.scope("to_q"), dim, dim);
    attn.to_k.visit(a.scope("to_k"), dim, dim);
    attn.to_v.visit(a.scope("to_v"), dim, dim);
    a.tensor("norm_q.weight", attn.norm_q, {head_dim});
    a.tensor("norm_k.weight", attn.norm_k, {head_dim});
  }));
  units.push_back(make_unit(name + ".mlp", [&](auto& slots) {
    proj_mlp.visit(SlotScope(slots, name + ".proj_mlp."), dim, 4 * dim);
    proj_out.visit(SlotScope(slots, name + ".proj_out."), 5 * dim, dim);
  }));
  return units;
}

std::vector<WeightUnit> FluxSingleTransformerBlock::modulation_units(
    const std::string& name, const FluxTransformerConfig& config) {
  const auto dim = config.inner_dim();
  std::vector<WeightUnit> units;
  units.push_back(make_unit(name + ".norm", [&](auto& slots) {
    norm.linear.visit(SlotScope(slots, name + ".norm.linear."), dim, 3 * dim);
  }));
  return units;
}

at::Tensor FluxSingleTransformerBlock::attend(const JointStream& stream,
                                              const Modulation& modulation,
                                              const FluxTransformerConfig& config) const {
  const auto m = modulation.chunk(3, -1);  // shift, scale, gate
  JointHeads heads(stream.joint.size(0), stream.joint.size(1), config, stream.joint.options());
  project_stream(stream.joint, m[0], m[1],
                 {attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k},
                 stream.image_rotary_emb, 0, heads);
  return heads.attend();
}

void FluxSingleTransformerBlock::finish_(JointStream& stream, const Modulation& modulation,
                                         const at::Tensor& attn_output) const {
  const auto m = modulation.chunk(3, -1);
  const auto dim = stream.joint.size(2);
  update_rows_(stream.joint, m[2], [&](std::int64_t b, std::int64_t begin, std::int64_t count) {
    // What proj_out reads: attention output and MLP side by side, written in place.
    auto joined = at::empty({count, 5 * dim}, stream.joint.options());
    joined.narrow(1, 0, dim).copy_(attn_output.select(0, b).narrow(0, begin, count));
    {
      const auto x = modulated_layer_norm(stream.joint.select(0, b).narrow(0, begin, count),
                                          m[0].select(0, b), m[1].select(0, b));
      const auto mlp = proj_mlp(x);
      gelu_(mlp, joined.narrow(1, dim, 4 * dim));
    }
    return proj_out(joined);
  });
  clip_half_(stream.joint);
}

}  // namespace steadyflux
