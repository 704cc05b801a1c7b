// FluxTransformer2DModel: predicts the velocity of packed latents.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <span>
#include <vector>

#include "config/tiles.h"
#include "transformer/blocks.h"
#include "transformer/step_cache.h"

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

struct FluxTransformer {
  // `compute`: what the layers of blocks multiply in, but for their modulations and, in 8
  // bits, the attention of the first block.
  explicit FluxTransformer(FluxTransformerConfig config, Compute compute = Compute::kDtype);

  FluxTransformerConfig config;
  Compute compute;
  TimeTextEmbed time_text_embed;
  Linear context_embedder, x_embedder;
  std::vector<FluxTransformerBlock> transformer_blocks;
  std::vector<FluxSingleTransformerBlock> single_transformer_blocks;
  struct {
    Linear linear;
  } norm_out;
  Linear proj_out;

  // Every tensor of the checkpoint.
  std::vector<TensorSlot> slots();
  // What forward takes leases on, in the order of use, and what it wants in place all the time.
  std::vector<WeightUnit> units();
  std::vector<TensorSlot> fixed_slots();
  // The same for modulation_table.
  std::vector<WeightUnit> modulation_units();
  std::vector<TensorSlot> modulation_fixed_slots();

  // The modulations of all blocks for T steps, which may be of several prompts:
  // [T, modulation_width()] in RAM. timesteps [T] in 0..1 and guidance [T] (or undefined), both
  // fp32 or model dtype, rounded through the model dtype as diffusers does; pooled_projections
  // [T, pooled_projection_dim]. A row is the same whatever rows are computed with it.
  at::Tensor modulation_table(const at::Tensor& timesteps, const at::Tensor& guidance,
                              const at::Tensor& pooled_projections, WeightProvider& weights,
                              const std::function<void()>& after_unit = {}) const;
  std::int64_t modulation_width() const;
  // The row of one step, where pooled_projections is: timestep [1], guidance [1],
  // pooled_projections [1, ...].
  at::Tensor modulations(const at::Tensor& timestep, const at::Tensor& guidance,
                         const at::Tensor& pooled_projections) const;

  // What one step of one picture goes in with.
  struct Input {
    at::Tensor hidden_states;          // [B, S_img, in_channels]; a reference's tokens last
    at::Tensor encoder_hidden_states;  // [B, S_txt, joint_attention_dim]
    at::Tensor modulations;            // [B, modulation_width()]
    RotaryEmbedding image_rotary_emb;
    StepCache* cache = nullptr;  // null: all blocks are computed
  };
  // -> noise_pred [B, S_img, out_channels] of each. The pictures go in turn through each unit of
  // weights, which is leased once for all of them; what comes out does not depend on how many there
  // are. `after_block` hears the count of blocks done and sees the streams. Where the caches of all
  // pictures leave the blocks behind the first one out, their weights are not leased.
  using AfterBlock = std::function<void(std::int64_t done, std::span<const JointStream> streams)>;
  std::vector<at::Tensor> forward(std::span<const Input> inputs, WeightProvider& weights,
                                  const AfterBlock& after_block = {}) const;
  // Of one, with all weights bound.
  at::Tensor forward(const Input& input, const AfterBlock& after_block = {}) const;

 private:
  // The parts of rows of the table, as views.
  struct Modulations {
    std::vector<FluxTransformerBlock::Modulation> transformer_blocks;
    std::vector<FluxSingleTransformerBlock::Modulation> single_transformer_blocks;
    at::Tensor norm_out;  // [B, 2 dim]: scale, shift
  };
  Modulations split_modulations(const at::Tensor& rows) const;
  JointStream embed(const Input& input) const;
  // After the first block: whether the picture's cache leaves the others out.
  bool reuses_rest(const Input& input, JointStream& stream) const;
  at::Tensor project_out(const JointStream& stream, const at::Tensor& scale_shift) const;

  // body(block, "transformer_blocks.3") for every block, in the order of use.
  template <typename Body>
  void for_each_block(Body body) {
    for (std::size_t i = 0; i < transformer_blocks.size(); ++i) {
      body(transformer_blocks[i], "transformer_blocks." + std::to_string(i));
    }
    for (std::size_t i = 0; i < single_transformer_blocks.size(); ++i) {
      body(single_transformer_blocks[i], "single_transformer_blocks." + std::to_string(i));
    }
  }
};

// cos first, then sin; t [B] -> [B, 256], fp32.
at::Tensor sinusoidal_embedding(const at::Tensor& t);

// Position ids of text_len text tokens (all zero), then of the picture's (0, row, column), then of
// a reference's (1, row, column): [text_len + tokens, 3], fp32.
at::Tensor make_position_ids(std::int64_t text_len, const TokenGrid& picture,
                             const TokenGrid& reference = {});

}  // namespace steadyflux
