// FluxTransformer2DModel: predicts the velocity of packed latents.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "transformer/blocks.h"

namespace steadyflux {

// time_text_embed: time, guidance (dev) and pooled text become one vector.
struct TimeTextEmbed {
  struct Embedder {
    Linear linear_1, linear_2;
    void visit(const SlotScope& scope, std::int64_t in, std::int64_t dim);
    at::Tensor forward(const at::Tensor& x) const;  // [B, in] -> [B, dim]
  };
  Embedder timestep_embedder, guidance_embedder, text_embedder;

  void visit(const SlotScope& scope, const FluxTransformerConfig& config);
  // timestep [B] and guidance [B] (undefined without guidance embedding) as multiplied by 1000,
  // pooled_projections [B, pooled_projection_dim] -> temb [B, dim].
  at::Tensor forward(const at::Tensor& timestep, const at::Tensor& guidance,
                     const at::Tensor& pooled_projections) const;
};

// What a step needs beside the picture. Depends on prompt, timestep and guidance only.
struct FluxModulations {
  std::vector<FluxTransformerBlock::Modulation> transformer_blocks;
  std::vector<FluxSingleTransformerBlock::Modulation> single_transformer_blocks;
  at::Tensor norm_out;  // [B, 2 dim]: scale, shift
};

struct FluxTransformer {
  explicit FluxTransformer(FluxTransformerConfig config);

  FluxTransformerConfig config;
  TimeTextEmbed time_text_embed;
  Linear context_embedder, x_embedder;
  std::vector<FluxTransformerBlock> transformer_blocks;
  std::vector<FluxSingleTransformerBlock> single_transformer_blocks;
  struct {
    Linear linear;
  } norm_out;
  Linear proj_out;

  std::vector<TensorSlot> slots();

  // timestep [B] in 0..1 and guidance [B] (or undefined), both fp32 or model dtype; rounded through
  // the model dtype as diffusers does.
  FluxModulations modulations(const at::Tensor& timestep, const at::Tensor& guidance,
                              const at::Tensor& pooled_projections) const;

  // hidden_states [B, S_img, in_channels], encoder_hidden_states [B, S_txt, joint_attention_dim]
  // -> noise_pred [B, S_img, out_channels]. `after_block` hears the count of blocks done; tests see
  // the streams through it.
  using AfterBlock = std::function<void(std::int64_t done, const at::Tensor& hidden_states,
                                        const at::Tensor& encoder_hidden_states)>;
  at::Tensor forward(const at::Tensor& hidden_states, const at::Tensor& encoder_hidden_states,
                     const FluxModulations& modulations, const RotaryEmbedding& image_rotary_emb,
                     const AfterBlock& after_block = {}) const;
};

// cos first, then sin; t [B] -> [B, 256], fp32.
at::Tensor sinusoidal_embedding(const at::Tensor& t);

// Position ids of text_len text tokens (all zero) and then height x width image tokens
// (0, row, column): [text_len + height * width, 3], fp32. Height and width in packed tokens.
at::Tensor make_position_ids(std::int64_t text_len, std::int64_t height, std::int64_t width);

}  // namespace steadyflux
