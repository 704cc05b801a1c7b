// LoRAs on both text encoders against diffusers (CLIP, in the formats that hold parts for it) and
// peft (T5, for which diffusers loads none).
#include <c10/core/InferenceMode.h>

#include "config/model_config.h"
#include "golden_file.h"
#include "lora_outputs.h"
#include "text_encoder/clip_text_model.h"
#include "text_encoder/t5_encoder.h"

namespace steadyflux {
namespace {

using testing::Goldens;
using testing::LoraCase;
using testing::LoraOutputs;

class EncoderLoraGolden : public ::testing::TestWithParam<LoraCase> {
 protected:
  template <typename Model>
  void load(Model& model, const std::string& folder, const LoraLayers& loras) const {
    LoadOptions options;
    options.optional_prefix = "text_model.";
    options.loras = &loras;
    load_slots(Checkpoint::open(goldens_.model() / folder), model.slots(), options);
  }

  const c10::InferenceMode inference_mode_;
  const Goldens goldens_{"a"};
  const LoraOutputs outputs_;
};

TEST_P(EncoderLoraGolden, ClipPooled) {
  ClipTextModel model(read_clip_text_config(goldens_.model() / "text_encoder" / "config.json"));
  load(model, "text_encoder", outputs_.layers(GetParam(), LoraComponent::kTextEncoder));
  const auto expected = outputs_.tensor(GetParam().name + ".pooled_prompt_embeds");
  const auto without = goldens_.tensor("fp32.pooled_prompt_embeds");
  ASSERT_GT((expected - without).abs().max().item<double>(), 0.1);
  testing::expect_close(GetParam().name, model.forward(goldens_.tensor("fp32.clip_input_ids")),
                        expected, testing::kFp32Tolerance);
}

INSTANTIATE_TEST_SUITE_P(Files, EncoderLoraGolden,
                         ::testing::Values(LoraCase{"kohya", {"kohya"}},
                                           LoraCase{"comfyui", {"comfyui"}},
                                           LoraCase{"onetrainer", {"onetrainer"}},
                                           LoraCase{"diffusers", {"diffusers"}},
                                           LoraCase{"two", {"kohya", "fal_kontext"}}),
                         [](const auto& one) { return one.param.name; });

class T5LoraGolden : public EncoderLoraGolden {};

TEST_P(T5LoraGolden, PromptEmbeds) {
  T5Encoder model(read_t5_config(goldens_.model() / "text_encoder_2" / "config.json"));
  load(model, "text_encoder_2", outputs_.layers(GetParam(), LoraComponent::kTextEncoder2));
  const auto expected = outputs_.tensor(GetParam().name + ".prompt_embeds");
  const auto without = goldens_.tensor("fp32.prompt_embeds");
  ASSERT_GT((expected - without).abs().max().item<double>(), 0.1);
  const auto input_ids = goldens_.tensor("fp32.t5_input_ids");
  BoundWeights weights;
  testing::expect_close(GetParam().name, model.forward({&input_ids, 1}, weights).front(), expected,
                        testing::kFp32Tolerance);
}

INSTANTIATE_TEST_SUITE_P(Files, T5LoraGolden, ::testing::Values(LoraCase{"peft_t5", {"peft_t5"}}),
                         [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace steadyflux
