// The two kinds of block FLUX is made of. Double-stream blocks keep text and image apart except in
// attention; single-stream blocks treat them as one sequence and run attention and MLP in parallel.
// Modulation (scale, shift, gate from the time embedding) is computed apart from the block's
// forward, because it does not depend on the picture: it can be done ahead for all steps.
// Rows of a sequence meet only in attention. All else goes through it in chunks of rows, so that
// the wide layers never have more than a chunk in memory; the chunks depend on the length alone.
// A block comes in parts, one for each unit of its weights, so that several pictures can go through
// a part while its weights are there.
#pragma once

#include <ATen/core/Tensor.h>

#include "config/model_config.h"
#include "nn/layers.h"
#include "nn/rotary_embedding.h"
#include "nn/weight_provider.h"

namespace steadyflux {

// ff.net.0.proj -> tanh-GELU -> ff.net.2
struct FeedForward {
  Linear net_0_proj, net_2;

  void visit(const SlotScope& scope, std::int64_t dim);
  at::Tensor forward(const at::Tensor& x) const;  // [B, S, dim] -> [B, S, dim]
};

// A picture on its way through the blocks: text and image side by side in one sequence.
struct JointStream {
  at::Tensor joint;                  // [B, S_txt + S_img, dim]
  at::Tensor encoder_hidden_states;  // [B, S_txt, dim], a view of joint
  at::Tensor hidden_states;          // [B, S_img, dim], a view of joint
  RotaryEmbedding image_rotary_emb;
};

struct FluxTransformerBlock {
  static constexpr std::size_t kUnits = 3;  // attn, ff, ff_context
  struct {
    Linear linear;  // [B, dim] -> [B, 6 dim]: shift, scale, gate (attention), the same (MLP)
  } norm1, norm1_context;
  struct {
    Linear to_q, to_k, to_v, to_out_0;
    Linear add_q_proj, add_k_proj, add_v_proj, to_add_out;
    at::Tensor norm_q, norm_k, norm_added_q, norm_added_k;  // RMSNorm weights, [head_dim]
  } attn;
  FeedForward ff, ff_context;

  struct Modulation {
    at::Tensor norm1;          // [B, 6 dim]
    at::Tensor norm1_context;  // [B, 6 dim]
  };

  // The weights of the block, unit by unit in the order of use; those of the modulation apart.
  std::vector<WeightUnit> units(const std::string& name, const FluxTransformerConfig& config);
  std::vector<WeightUnit> modulation_units(const std::string& name,
                                           const FluxTransformerConfig& config);
  // The block in three parts, one for each unit: they update a stream in place.
  void attend_(JointStream& stream, const Modulation& modulation,
               const FluxTransformerConfig& config) const;
  void feed_forward_(JointStream& stream, const Modulation& modulation) const;
  void feed_forward_context_(JointStream& stream, const Modulation& modulation) const;
};

struct FluxSingleTransformerBlock {
  static constexpr std::size_t kUnits = 2;  // attn, mlp
  struct {
    Linear linear;  // [B, dim] -> [B, 3 dim]: shift, scale, gate
  } norm;
  struct {
    Linear to_q, to_k, to_v;
    at::Tensor norm_q, norm_k;  // [head_dim]
  } attn;
  Linear proj_mlp, proj_out;

  using Modulation = at::Tensor;  // [B, 3 dim]

  std::vector<WeightUnit> units(const std::string& name, const FluxTransformerConfig& config);
  std::vector<WeightUnit> modulation_units(const std::string& name,
                                           const FluxTransformerConfig& config);
  // The block in two parts, one for each unit. attend leaves the stream as it is and gives what
  // finish_ takes beside it, [B, S_txt + S_img, dim].
  at::Tensor attend(const JointStream& stream, const Modulation& modulation,
                    const FluxTransformerConfig& config) const;
  void finish_(JointStream& stream, const Modulation& modulation,
               const at::Tensor& attn_output) const;
};

// layer_norm(x) * (1 + scale) + shift, with scale and shift [B, dim] and x [B, S, dim].
at::Tensor modulated_layer_norm(const at::Tensor& x, const at::Tensor& shift,
                                const at::Tensor& scale);

}  // namespace steadyflux
