// The transformer against diffusers on the tiny pipelines of tests/goldens. Every step is fed with
// diffusers' own latents, so that a difference shows in the step and block where it arises.
#include <c10/core/InferenceMode.h>

#include "config/model_config.h"
#include "golden_file.h"
#include "transformer/flux_transformer.h"

namespace steadyflux {
namespace {

using testing::expect_close;
using testing::Goldens;
using testing::kRuns;

struct Case {
  const char* name;
  std::int64_t height, width;  // packed tokens
  double guidance;
};

class TransformerGolden : public ::testing::TestWithParam<Case> {
 protected:
  FluxTransformer load(at::ScalarType dtype) const {
    FluxTransformer model(
        read_flux_transformer_config(goldens_.model() / "transformer" / "config.json"));
    LoadOptions options;
    options.dtype = dtype;
    load_slots(Checkpoint::open(goldens_.model() / "transformer"), model.slots(), options);
    return model;
  }
  // What diffusers gives the transformer: the timestep goes through the model dtype.
  static at::Tensor timestep(const at::Tensor& timesteps, std::int64_t step, at::ScalarType dtype) {
    return timesteps.narrow(0, step, 1).to(dtype) / 1000;
  }
  at::Tensor guidance(const FluxTransformer& model) const {
    if (!model.config.guidance_embeds) return {};
    return at::full({1}, GetParam().guidance, at::kFloat);
  }
  RotaryEmbedding rotary(const FluxTransformer& model, std::int64_t text_len) const {
    return make_rotary_embedding(make_position_ids(text_len, {GetParam().height, GetParam().width}),
                                 model.config.axes_dims_rope);
  }

  const c10::InferenceMode inference_mode_;
  const Goldens goldens_{GetParam().name};
};

TEST_P(TransformerGolden, TembAndRotaryEmbedding) {
  for (const auto& run : kRuns) {
    const auto golden = [&](const std::string& name) {
      return goldens_.tensor(run.name + "." + name);
    };
    const auto model = load(run.dtype);
    const auto to_embedder = [&](const at::Tensor& t) { return t.to(run.dtype) * 1000; };
    const auto guidance_value = guidance(model);
    const auto temb = model.time_text_embed.forward(
        to_embedder(timestep(golden("timesteps"), 0, run.dtype)),
        guidance_value.defined() ? to_embedder(guidance_value) : guidance_value,
        golden("pooled_prompt_embeds"));
    expect_close(run.name + ".temb", temb, golden("temb"), run.tolerance);
    // Angles are made in fp64 on both sides: equal to the last bit but for libm's sin and cos.
    const auto emb = rotary(model, golden("prompt_embeds").size(1));
    expect_close(run.name + ".cos", emb.cos, golden("image_rotary_emb.cos"), 1e-7);
    expect_close(run.name + ".sin", emb.sin, golden("image_rotary_emb.sin"), 1e-7);
  }
}

TEST_P(TransformerGolden, EveryBlockOfTheFirstStep) {
  for (const auto& run : kRuns) {
    const auto golden = [&](const std::string& name) {
      return goldens_.tensor(run.name + "." + name);
    };
    const auto model = load(run.dtype);
    const auto modulations = model.modulations(timestep(golden("timesteps"), 0, run.dtype),
                                               guidance(model), golden("pooled_prompt_embeds"));
    const auto text_len = golden("prompt_embeds").size(1);
    std::int64_t blocks = 0;
    model.forward(
        {golden("noise"), golden("prompt_embeds"), modulations, rotary(model, text_len)},
        [&](std::int64_t done, std::span<const JointStream> streams) {
          blocks = done;
          const auto index = done - 1;
          const auto single = index - model.config.num_layers;
          const auto block = single < 0 ? "transformer_blocks." + std::to_string(index)
                                        : "single_transformer_blocks." + std::to_string(single);
          expect_close(run.name + "." + block, streams[0].hidden_states,
                       golden(block + ".hidden_states"), run.tolerance);
          expect_close(run.name + "." + block + " (text)", streams[0].encoder_hidden_states,
                       golden(block + ".encoder_hidden_states"), run.tolerance);
        });
    EXPECT_EQ(blocks, model.config.num_layers + model.config.num_single_layers);
  }
}

TEST_P(TransformerGolden, NoisePredOfEveryStep) {
  for (const auto& run : kRuns) {
    const auto golden = [&](const std::string& name) {
      return goldens_.tensor(run.name + "." + name);
    };
    const auto model = load(run.dtype);
    const auto image_rotary_emb = rotary(model, golden("prompt_embeds").size(1));
    const auto steps = golden("timesteps").size(0);
    for (std::int64_t step = 0; step < steps; ++step) {
      const auto latents =
          step == 0 ? golden("noise") : golden("latents." + std::to_string(step - 1));
      const auto modulations = model.modulations(timestep(golden("timesteps"), step, run.dtype),
                                                 guidance(model), golden("pooled_prompt_embeds"));
      const auto name = "noise_pred." + std::to_string(step);
      expect_close(run.name + "." + name,
                   model.forward({latents, golden("prompt_embeds"), modulations, image_rotary_emb}),
                   golden(name), run.tolerance);
    }
  }
}

// Sizes and guidance as in the goldens' manifest.json; a packed token is 16 pixels wide.
INSTANTIATE_TEST_SUITE_P(Goldens, TransformerGolden,
                         ::testing::Values(Case{"a", 2, 3, 0.0}, Case{"b", 4, 2, 3.5}),
                         [](const auto& param) { return std::string(param.param.name); });

}  // namespace
}  // namespace steadyflux
