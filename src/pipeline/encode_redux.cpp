#include "pipeline/encode_redux.h"

#include <ATen/ATen.h>

#include <memory>
#include <utility>

#include "image/resample.h"
#include "image_encoder/redux_image_encoder.h"
#include "image_encoder/siglip_vision_model.h"
#include "pipeline/phase_weights.h"

namespace steadyflux {
namespace {

// Bytes -> [1, 3, H, W] as SigLIP takes them, -1..1, fp32.
at::Tensor pixel_values(const Image& image) {
  const auto rows = at::from_blob(const_cast<std::uint8_t*>(image.rgb.data()),
                                  {image.height, image.width, 3}, at::kByte);
  // As transformers has it, operation by operation.
  const auto values = rows.permute({2, 0, 1}).unsqueeze(0).to(at::kFloat).mul(1.0F / 255.0F);
  return values.sub(0.5).div(0.5).contiguous();
}

// Runs one of the two models for all pictures: forward(model, inputs, weights). Gives what it makes
// of each of `inputs`, in RAM.
template <typename Model>
std::vector<at::Tensor> run(const PhaseContext& context, const WeightsSource& source, Model model,
                            const std::vector<at::Tensor>& inputs,
                            const std::function<void()>& made) {
  const auto weights = open_weights(context, source, model.fixed_slots(), model.units(),
                                    weights_plan(context.plan, "encode", source.name));
  std::vector<at::Tensor> brought;
  for (const auto& input : inputs) brought.push_back(input.to(context.device, context.dtype));
  auto results = model.forward(brought, *weights);
  for (auto& result : results) {
    expect_finite(context, result, source);
    result = std::exchange(result, {}).to(at::kCPU);
    made();
    throw_if_interrupted(context.observer);
  }
  return results;
}

}  // namespace

void encode_redux(const PhaseContext& context, const Chunk& chunk,
                  const std::function<void()>& made, std::vector<at::Tensor>& image_embeds) {
  if (chunk.redux_images.empty() || !image_embeds.empty()) return;
  const auto& redux = context.model.redux.value();
  const auto side = redux.image_encoder.image_size;
  std::vector<at::Tensor> pixels;
  for (const auto* image : chunk.redux_images) {
    throw_if_interrupted(context.observer);
    const auto resized = resample_bicubic(image->load(), side, side);
    pixels.push_back(pixel_values(resized).to(context.dtype));
  }
  const auto hidden_states =
      run(context, image_encoder_source(), SiglipVisionModel(redux.image_encoder), pixels, made);
  image_embeds = run(context, image_embedder_source(), ReduxImageEncoder(redux.image_embedder),
                     hidden_states, made);
}

PromptEmbeddings no_prompt(const FluxModel& model, const ChunkPrompt& prompt,
                           at::ScalarType dtype) {
  const auto& config = model.transformer;
  return {at::zeros({1, prompt.max_sequence_length, config.joint_attention_dim}, dtype),
          at::zeros({1, config.pooled_projection_dim}, dtype)};
}

void join_redux(const Chunk& chunk, Encoded& encoded) {
  for (std::size_t i = 0; i < chunk.prompts.size(); ++i) {
    const auto& uses = chunk.prompts[i].redux;
    if (uses.empty()) continue;
    auto& [prompt_embeds, pooled] = encoded.embeddings[i];
    std::vector<at::Tensor> rows;
    std::vector<double> scales;
    for (const auto& use : uses) {
      rows.push_back(at::cat({prompt_embeds, encoded.image_embeds[use.image]}, 1));
      scales.push_back(use.scale);
    }
    const auto weights = at::tensor(scales).to(prompt_embeds.scalar_type()).view({-1, 1, 1});
    prompt_embeds = at::cat(rows).mul_(weights).sum(0, /*keepdim=*/true);
    pooled = pooled.expand({static_cast<std::int64_t>(uses.size()), -1}).sum(0, /*keepdim=*/true);
  }
}

}  // namespace steadyflux
