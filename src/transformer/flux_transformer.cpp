#include "transformer/flux_transformer.h"

#include <ATen/ATen.h>

#include <cmath>

namespace steadyflux {
namespace {
constexpr std::int64_t kTimeEmbedDim = 256;
}

void TimeTextEmbed::Embedder::visit(const SlotScope& scope, std::int64_t in, std::int64_t dim) {
  linear_1.visit(scope.scope("linear_1"), in, dim);
  linear_2.visit(scope.scope("linear_2"), dim, dim);
}

at::Tensor TimeTextEmbed::Embedder::forward(const at::Tensor& x) const {
  return linear_2(at::silu(linear_1(x)));
}

void TimeTextEmbed::visit(const SlotScope& scope, const FluxTransformerConfig& config) {
  const auto dim = config.inner_dim();
  timestep_embedder.visit(scope.scope("timestep_embedder"), kTimeEmbedDim, dim);
  if (config.guidance_embeds) {
    guidance_embedder.visit(scope.scope("guidance_embedder"), kTimeEmbedDim, dim);
  }
  text_embedder.visit(scope.scope("text_embedder"), config.pooled_projection_dim, dim);
}

at::Tensor TimeTextEmbed::forward(const at::Tensor& timestep, const at::Tensor& guidance,
                                  const at::Tensor& pooled_projections) const {
  const auto dtype = pooled_projections.scalar_type();
  auto temb = timestep_embedder.forward(sinusoidal_embedding(timestep).to(dtype));
  if (guidance.defined()) {
    temb = temb + guidance_embedder.forward(sinusoidal_embedding(guidance).to(dtype));
  }
  return temb + text_embedder.forward(pooled_projections);
}

FluxTransformer::FluxTransformer(FluxTransformerConfig config_in)
    : config(std::move(config_in)),
      transformer_blocks(static_cast<std::size_t>(config.num_layers)),
      single_transformer_blocks(static_cast<std::size_t>(config.num_single_layers)) {}

std::vector<TensorSlot> FluxTransformer::slots() {
  std::vector<TensorSlot> slots;
  const SlotScope root(slots);
  const auto dim = config.inner_dim();
  time_text_embed.visit(root.scope("time_text_embed"), config);
  context_embedder.visit(root.scope("context_embedder"), config.joint_attention_dim, dim);
  x_embedder.visit(root.scope("x_embedder"), config.in_channels, dim);
  for (std::size_t i = 0; i < transformer_blocks.size(); ++i) {
    transformer_blocks[i].visit(root.scope("transformer_blocks", i), config);
  }
  for (std::size_t i = 0; i < single_transformer_blocks.size(); ++i) {
    single_transformer_blocks[i].visit(root.scope("single_transformer_blocks", i), config);
  }
  norm_out.linear.visit(root.scope("norm_out").scope("linear"), dim, 2 * dim);
  proj_out.visit(root.scope("proj_out"), dim,
                 config.patch_size * config.patch_size * config.out_channels);
  return slots;
}

FluxModulations FluxTransformer::modulations(const at::Tensor& timestep, const at::Tensor& guidance,
                                             const at::Tensor& pooled_projections) const {
  // The reference multiplies by 1000 in the model's dtype: in bf16, 988.41 becomes 988.
  const auto dtype = x_embedder.weight.scalar_type();
  const auto scaled = [&](const at::Tensor& t) { return t.defined() ? t.to(dtype) * 1000 : t; };
  const auto temb = time_text_embed.forward(scaled(timestep), scaled(guidance), pooled_projections);
  const auto silu_temb = at::silu(temb);
  FluxModulations result;
  for (const auto& block : transformer_blocks) {
    result.transformer_blocks.push_back(block.modulate(silu_temb));
  }
  for (const auto& block : single_transformer_blocks) {
    result.single_transformer_blocks.push_back(block.modulate(silu_temb));
  }
  result.norm_out = norm_out.linear(silu_temb);
  return result;
}

at::Tensor FluxTransformer::forward(const at::Tensor& hidden_states_in,
                                    const at::Tensor& encoder_hidden_states_in,
                                    const FluxModulations& modulations,
                                    const RotaryEmbedding& image_rotary_emb,
                                    const AfterBlock& after_block) const {
  auto hidden_states = x_embedder(hidden_states_in);                        // [B, S_img, dim]
  auto encoder_hidden_states = context_embedder(encoder_hidden_states_in);  // [B, S_txt, dim]
  const auto text_len = encoder_hidden_states.size(1);
  const auto image_len = hidden_states.size(1);
  std::int64_t done = 0;

  for (std::size_t i = 0; i < transformer_blocks.size(); ++i) {
    transformer_blocks[i].forward_(hidden_states, encoder_hidden_states,
                                   modulations.transformer_blocks[i], image_rotary_emb, config);
    if (after_block) after_block(++done, hidden_states, encoder_hidden_states);
  }

  // From here on text and image are one sequence.
  auto joint = at::cat({encoder_hidden_states, hidden_states}, 1);  // [B, S_txt + S_img, dim]
  encoder_hidden_states.reset();
  for (std::size_t i = 0; i < single_transformer_blocks.size(); ++i) {
    single_transformer_blocks[i].forward_(joint, modulations.single_transformer_blocks[i],
                                          image_rotary_emb, config);
    if (after_block) {
      after_block(++done, joint.narrow(1, text_len, image_len), joint.narrow(1, 0, text_len));
    }
  }
  hidden_states = joint.narrow(1, text_len, image_len);

  const auto m = modulations.norm_out.chunk(2, -1);  // scale, shift: the other way round than BFL's
  return proj_out(modulated_layer_norm(hidden_states, m[1], m[0]));
}

at::Tensor sinusoidal_embedding(const at::Tensor& t) {
  const auto half = kTimeEmbedDim / 2;
  const auto options = at::TensorOptions().dtype(at::kFloat).device(t.device());
  const auto exponent = at::arange(half, options) * -std::log(10000.0) / static_cast<double>(half);
  const auto angles = t.to(at::kFloat).unsqueeze(1) * at::exp(exponent).unsqueeze(0);
  return at::cat({at::cos(angles), at::sin(angles)}, -1);
}

at::Tensor make_position_ids(std::int64_t text_len, std::int64_t height, std::int64_t width) {
  auto ids = at::zeros({text_len + height * width, 3}, at::kFloat);
  auto image = ids.narrow(0, text_len, height * width).view({height, width, 3});
  image.select(2, 1).copy_(at::arange(height, at::kFloat).unsqueeze(1).expand({height, width}));
  image.select(2, 2).copy_(at::arange(width, at::kFloat).unsqueeze(0).expand({height, width}));
  return ids;
}

}  // namespace steadyflux
