// LoRAs on weights that come and go: wherever units live, layers compute the same to the bit, with
// merged weights and with packed ones.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include "lora/lora_files.h"
#include "nn/layers.h"
#include "packed_file.h"
#include "residency/streamed_weights.h"

namespace steadyflux {
namespace {

using testing::NamedTensors;
using testing::write_weights;

constexpr std::int64_t kDim = 96;
// What a LoRA is for, with every kind of branch; "ff.net.2" only has a bias changed.
const char* const kLayers[] = {"attn.to_q",     "attn.to_k",     "attn.to_v",
                               "attn.to_out.0", "ff.net.0.proj", "ff.net.2"};

std::string full_name(const std::string& layer) { return "transformer_blocks.0." + layer; }

class LoraStreaming : public ::testing::TestWithParam<std::pair<DType, at::ScalarType>> {
 protected:
  LoraStreaming() {
    at::manual_seed(5);
    NamedTensors tensors;
    for (const auto& layer : kLayers) {
      tensors[full_name(layer) + ".weight"] = at::randn({kDim, kDim}) * 0.1;
      tensors[full_name(layer) + ".bias"] = at::randn({kDim});
    }
    file_ = write_weights(folder_.path(), tensors, GetParam().first);
    x_ = at::randn({3, kDim}).to(dtype());
    LoraMaker maker;
    add(maker, "attn.to_q.lora_A.weight", {4, kDim});
    add(maker, "attn.to_q.lora_B.weight", {kDim, 4});
    add(maker, "attn.to_k.hada_w1_a", {kDim, 2});
    add(maker, "attn.to_k.hada_w1_b", {2, kDim});
    add(maker, "attn.to_k.hada_w2_a", {kDim, 2});
    add(maker, "attn.to_k.hada_w2_b", {2, kDim});
    add(maker, "attn.to_v.lokr_w1", {4, 8});
    add(maker, "attn.to_v.lokr_w2", {kDim / 4, kDim / 8});
    add(maker, "attn.to_out.0.diff", {kDim, kDim});
    add(maker, "attn.to_out.0.diff_b", {kDim});
    add(maker, "ff.net.0.proj.lora_A.weight", {4, kDim});
    add(maker, "ff.net.0.proj.lora_B.weight", {kDim, 4});
    add(maker, "ff.net.0.proj.dora_scale", {1, kDim});
    add(maker, "ff.net.2.diff_b", {kDim});
    loras_.add(std::make_shared<LoraFile>(read_lora(maker.write(folder_, "lora"))),
               LoraComponent::kTransformer, 0.8);
    layers_.resize(std::size(kLayers));
  }

  static at::ScalarType dtype() { return GetParam().second; }
  static void add(LoraMaker& maker, const std::string& key,
                  const std::vector<std::int64_t>& shape) {
    const auto values = at::randn(shape) * 0.3;
    const auto* data = values.const_data_ptr<float>();
    maker.floats(full_name(key), shape, {data, data + values.numel()});
  }
  LoadOptions options(const LoraLayers* loras) const {
    LoadOptions options;
    options.dtype = dtype();
    options.loras = loras;
    return options;
  }
  std::vector<WeightUnit> units() {
    std::vector<WeightUnit> units;
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      units.push_back({kLayers[i], {}});
      layers_[i].visit(SlotScope(units.back().slots, full_name(kLayers[i]) + "."), kDim, kDim);
    }
    return units;
  }
  // The layers' outputs in a pass.
  std::vector<at::Tensor> outputs(WeightProvider& weights) const {
    std::vector<at::Tensor> result;
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const auto lease = weights.acquire(i);
      result.push_back(layers_[i](x_).clone());
    }
    return result;
  }
  std::vector<at::Tensor> loaded(const LoraLayers* loras) {
    load_slots(Checkpoint::open(file_), all_slots({}, units()), options(loras));
    BoundWeights weights;
    return outputs(weights);
  }
  static void expect_equal(const std::vector<at::Tensor>& found,
                           const std::vector<at::Tensor>& expected) {
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_TRUE(at::equal(found[i], expected[i])) << kLayers[i];
    }
  }

  const c10::InferenceMode inference_mode_;
  const TempFolder folder_;
  std::filesystem::path file_;
  LoraLayers loras_;
  at::Tensor x_;
  std::vector<Linear> layers_;
};

TEST_P(LoraStreaming, EveryPlanComputesTheSame) {
  const auto plain = loaded(nullptr);
  const auto expected = loaded(&loras_);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_FALSE(at::allclose(expected[i], plain[i], 0.1)) << kLayers[i];
  }
  for (const std::string places : {"dddddd", "rdrdrd", "drdrdr", "rrrrrr"}) {
    for (const std::int64_t buffers : {1, 2}) {
      WeightsPlan plan;
      for (const char place : places) {
        plan.places.push_back(place == 'r' ? UnitPlace::kResident : UnitPlace::kDisk);
      }
      plan.buffers = buffers;
      plan.passes = 3;
      StreamedWeights weights(units(), Checkpoint::open(file_), options(&loras_), plan);
      for (int pass = 0; pass < 3; ++pass) {
        SCOPED_TRACE(places + ", pass " + std::to_string(pass));
        expect_equal(outputs(weights), expected);
      }
    }
  }
  WeightsPlan mapped;
  mapped.mapped = true;
  mapped.places.resize(layers_.size(), UnitPlace::kDisk);
  StreamedWeights weights(units(), Checkpoint::open(file_), options(&loras_), mapped);
  expect_equal(outputs(weights), expected);
}

// Nothing of a LoRA is left when its request is over.
TEST_P(LoraStreaming, LayersForgetLoras) {
  const auto expected = loaded(nullptr);
  WeightsPlan plan;
  plan.places.resize(layers_.size(), UnitPlace::kDisk);
  plan.places[0] = plan.places[2] = UnitPlace::kResident;
  plan.buffers = 1;
  plan.passes = 1;
  {
    StreamedWeights weights(units(), Checkpoint::open(file_), options(&loras_), plan);
    outputs(weights);
  }
  StreamedWeights weights(units(), Checkpoint::open(file_), options(nullptr), plan);
  expect_equal(outputs(weights), expected);
}

INSTANTIATE_TEST_SUITE_P(
    Weights, LoraStreaming,
    ::testing::Values(std::pair(DType::kF32, at::kFloat), std::pair(DType::kF32, at::kBFloat16),
                      std::pair(DType::kBF16, at::kBFloat16), std::pair(DType::kF8E4M3, at::kFloat),
                      std::pair(DType::kQ8_0, at::kFloat), std::pair(DType::kQ8_0, at::kBFloat16)));

}  // namespace
}  // namespace steadyflux
