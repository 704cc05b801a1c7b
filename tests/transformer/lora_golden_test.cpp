// LoRAs in every format on the tiny transformer: merged, against what diffusers, peft and LyCORIS
// compute with them; and beside a packed transformer, against merging into what that unpacks to.
#include <c10/core/InferenceMode.h>

#include "config/model_config.h"
#include "golden_file.h"
#include "lora_outputs.h"
#include "packed_file.h"
#include "temp_folder.h"
#include "transformer/flux_transformer.h"

namespace steadyflux {
namespace {

using testing::expect_close;
using testing::Goldens;
using testing::LoraCase;
using testing::LoraOutputs;
using testing::NamedTensors;
using testing::write_weights;

class LoraGolden : public ::testing::TestWithParam<LoraCase> {
 protected:
  FluxTransformer load(const std::filesystem::path& weights, const LoraLayers* loras,
                       at::ScalarType dtype = at::kFloat) const {
    FluxTransformer model(
        read_flux_transformer_config(goldens_.model() / "transformer" / "config.json"));
    LoadOptions options;
    options.dtype = dtype;
    options.loras = loras;
    load_slots(Checkpoint::open(weights), model.slots(), options);
    return model;
  }
  at::Tensor input(const std::string& name) const { return goldens_.tensor("fp32." + name); }
  at::Tensor timestep() const { return input("timesteps").narrow(0, 0, 1) / 1000; }
  at::Tensor noise_pred(const FluxTransformer& model) const {
    const auto embeds = input("prompt_embeds");
    const auto rotary = make_rotary_embedding(make_position_ids(embeds.size(1), {2, 3}),
                                              model.config.axes_dims_rope);
    return model.forward({input("noise"), embeds,
                          model.modulations(timestep(), {}, input("pooled_prompt_embeds")),
                          rotary});
  }
  // The tiny transformer with its Linears in 8-bit floats, which take rows of any length.
  std::filesystem::path write_packed(const TempFolder& folder) const {
    auto model = load(goldens_.model() / "transformer", nullptr);
    NamedTensors tensors;
    for (const auto& slot : model.slots()) tensors[slot.name] = *slot.tensor;
    return write_weights(folder.path(), tensors, DType::kF8E4M3);
  }
  // The values that a packed model computes with, plain.
  std::filesystem::path write_unpacked(const TempFolder& folder,
                                       const std::filesystem::path& packed) const {
    auto model = load(packed, nullptr);
    NamedTensors tensors;
    for (const auto& slot : model.slots()) {
      const bool is_packed = slot.packed != nullptr && slot.packed->has_value();
      EXPECT_EQ(is_packed, slot.shape.size() == 2) << slot.name;
      tensors[slot.name] = is_packed ? (*slot.packed)->unpacked(at::kFloat) : *slot.tensor;
    }
    return write_weights(folder.path(), tensors, DType::kF32);
  }

  const c10::InferenceMode inference_mode_;
  const Goldens goldens_{"a"};
  const LoraOutputs outputs_;
  const LoraLayers loras_ = outputs_.layers(GetParam(), LoraComponent::kTransformer);
};

TEST_P(LoraGolden, NoisePred) {
  const auto expected = outputs_.tensor(GetParam().name + ".noise_pred");
  const auto without = outputs_.tensor("none.noise_pred");
  ASSERT_GT((expected - without).abs().max().item<double>(), 0.1);
  const auto model = load(goldens_.model() / "transformer", &loras_);
  // peft adds products of activations, here weights are changed; the same sums in another order.
  expect_close(GetParam().name, noise_pred(model), expected,
               GetParam().amplifies * testing::kFp32Tolerance);
}

TEST_P(LoraGolden, PackedComputesWhatMergedDoes) {
  const TempFolder folder, other;
  const auto packed_file = write_packed(folder);
  const auto plain_file = write_unpacked(other, packed_file);
  const auto without = noise_pred(load(plain_file, nullptr));
  expect_close("without LoRAs", noise_pred(load(packed_file, nullptr)), without,
               testing::kFp32Tolerance);
  const auto expected = noise_pred(load(plain_file, &loras_));
  ASSERT_GT((expected - without).abs().max().item<double>(), 0.1);
  expect_close(GetParam().name, noise_pred(load(packed_file, &loras_)), expected,
               testing::kFp32Tolerance);
}

// A step's modulations must not depend on the steps that are computed with it. (In fp32 that holds
// for counts that are multiples of 16, with LoRAs and without.)
TEST_P(LoraGolden, ModulationsOfPackedLayersDoNotDependOnOtherRows) {
  const TempFolder folder;
  const auto file = write_packed(folder);
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const auto model = load(file, &loras_, dtype);
    const auto pooled = input("pooled_prompt_embeds").to(dtype);
    BoundWeights weights;
    const auto table = [&](const at::Tensor& timesteps) {
      return model.modulation_table(timesteps, {}, pooled.expand({timesteps.size(0), -1}), weights);
    };
    const auto timesteps = at::linspace(1, 0.05, 150);
    const auto all = table(timesteps);
    for (const std::int64_t begin : {0, 7, 149}) {
      for (const std::int64_t count : {1, 2, 4, 8, 40}) {
        const auto some = std::min(count, 150 - begin);
        EXPECT_TRUE(at::equal(table(timesteps.narrow(0, begin, some)), all.narrow(0, begin, some)))
            << begin << ", " << some;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Files, LoraGolden,
    ::testing::Values(LoraCase{"kohya", {"kohya"}, 5}, LoraCase{"kohya_split", {"kohya_split"}},
                      LoraCase{"comfyui", {"comfyui"}}, LoraCase{"onetrainer", {"onetrainer"}},
                      LoraCase{"xlabs", {"xlabs"}}, LoraCase{"fal_kontext", {"fal_kontext"}},
                      LoraCase{"diffusers", {"diffusers"}}, LoraCase{"peft", {"peft"}},
                      LoraCase{"peft_rslora", {"peft_rslora"}},
                      LoraCase{"peft_dora", {"peft_dora"}}, LoraCase{"peft_loha", {"peft_loha"}},
                      LoraCase{"peft_lokr", {"peft_lokr"}}, LoraCase{"lycoris", {"lycoris"}},
                      LoraCase{"two", {"kohya", "fal_kontext"}, 20},
                      LoraCase{"dora_and_lora", {"peft_dora", "peft"}}),
    [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace steadyflux
