// Both text encoders against diffusers on the tiny pipelines of tests/goldens: two shapes, both
// CLIP activations and end-of-text rules, both names of CLIP's tensors and of T5's embedding.
#include <c10/core/InferenceMode.h>

#include "config/model_config.h"
#include "golden_file.h"
#include "text_encoder/clip_text_model.h"
#include "text_encoder/t5_encoder.h"

namespace steadyflux {
namespace {

using testing::Goldens;
using testing::kRuns;

class EncoderGolden : public ::testing::TestWithParam<const char*> {
 protected:
  template <typename Model>
  static void load(Model& model, const std::filesystem::path& folder, at::ScalarType dtype) {
    LoadOptions options;
    options.dtype = dtype;
    options.optional_prefix = "text_model.";
    load_slots(Checkpoint::open(folder), model.slots(), options);
  }

  const c10::InferenceMode inference_mode_;
  const Goldens goldens_{GetParam()};
};

TEST_P(EncoderGolden, ClipPooled) {
  for (const auto& run : kRuns) {
    ClipTextModel model(read_clip_text_config(goldens_.model() / "text_encoder" / "config.json"));
    load(model, goldens_.model() / "text_encoder", run.dtype);
    testing::expect_close(run.name + ".pooled_prompt_embeds",
                          model.forward(goldens_.tensor(run.name + ".clip_input_ids")),
                          goldens_.tensor(run.name + ".pooled_prompt_embeds"), run.tolerance);
  }
}

TEST_P(EncoderGolden, T5) {
  for (const auto& run : kRuns) {
    T5Encoder model(read_t5_config(goldens_.model() / "text_encoder_2" / "config.json"));
    load(model, goldens_.model() / "text_encoder_2", run.dtype);
    std::int64_t blocks = 0;
    const auto input_ids = goldens_.tensor(run.name + ".t5_input_ids");
    BoundWeights weights;
    const auto embeds =
        model.forward({&input_ids, 1}, weights, [&](std::int64_t done) { blocks = done; });
    EXPECT_EQ(blocks, model.config.num_layers);
    testing::expect_close(run.name + ".prompt_embeds", embeds.front(),
                          goldens_.tensor(run.name + ".prompt_embeds"), run.tolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(Goldens, EncoderGolden, ::testing::Values("a", "b"));

}  // namespace
}  // namespace steadyflux
