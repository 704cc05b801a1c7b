// Redux's two models against transformers and diffusers on a tiny one, and the pixels that go in.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include "checkpoints/open_model.h"
#include "golden_file.h"
#include "image_encoder/redux_image_encoder.h"
#include "image_encoder/siglip_vision_model.h"

namespace steadyflux {
namespace {

using testing::expect_close;
using testing::Goldens;
using testing::kRuns;

template <typename Model>
void load(Model& model, const std::filesystem::path& folder, Component component,
          at::ScalarType dtype) {
  LoadOptions options;
  options.dtype = dtype;
  load_slots(ComponentWeights::open(folder, component), model.slots(), options);
}

TEST(ReduxGolden, StagesAreThoseOfTheReference) {
  const c10::InferenceMode inference_mode;
  const Goldens goldens("redux");
  const auto redux = open_redux(goldens.model());
  for (const auto& run : kRuns) {
    SiglipVisionModel encoder(redux.config.image_encoder);
    load(encoder, redux.image_encoder, Component::kImageEncoder, run.dtype);
    ReduxImageEncoder embedder(redux.config.image_embedder);
    load(embedder, redux.image_embedder, Component::kImageEmbedder, run.dtype);
    BoundWeights weights;
    const auto pixels = goldens.tensor(run.name + ".pixel_values");
    // The second picture changes nothing about the first.
    const std::vector<at::Tensor> both = {pixels, pixels.flip(3).contiguous()};
    const auto hidden = encoder.forward(both, weights);
    ASSERT_EQ(hidden.size(), 2U);
    const auto expected = goldens.tensor(run.name + ".last_hidden_state");
    expect_close(run.name + ".last_hidden_state", hidden[0], expected, run.tolerance);
    const std::vector<at::Tensor> states = {expected, hidden[1]};
    const auto embeds = embedder.forward(states, weights);
    ASSERT_EQ(embeds.size(), 2U);
    expect_close(run.name + ".image_embeds", embeds[0], goldens.tensor(run.name + ".image_embeds"),
                 run.tolerance);
    EXPECT_FALSE(at::equal(embeds[0], embeds[1]));
  }
}

}  // namespace
}  // namespace steadyflux
