// LoRAs on single layers: merged into plain weights, against the definition in lora_file.h computed
// in fp64, and beside packed ones, against merging into what those unpack to. (What diffusers, peft
// and LyCORIS make of LoRAs: tests/transformer/lora_golden_test.cpp.)
#include "nn/lora_layers.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "lora/lora_files.h"
#include "nn/layers.h"
#include "nn/load.h"
#include "packed_file.h"

namespace steadyflux {
namespace {

using testing::NamedTensors;
using testing::write_weights;

constexpr std::int64_t kOut = 64, kIn = 96;

// A LoRA file of random values; `dora` is near the lengths that the tests' weights have.
class Maker {
 public:
  Maker& add(const std::string& key, std::vector<std::int64_t> shape, double scale = 0.3) {
    const auto values = at::randn(shape) * scale;
    return put(key, values);
  }
  Maker& dora(const std::string& stem, std::vector<std::int64_t> shape, double length) {
    return put(stem + ".dora_scale", length * (1 + 0.3 * at::randn(shape)).abs());
  }
  Maker& alpha(const std::string& stem, float value) {
    maker_.alpha(stem, value);
    return *this;
  }
  Maker& lora(const std::string& stem, std::int64_t out, std::int64_t in, std::int64_t rank) {
    return add(stem + ".lora_down.weight", {rank, in}).add(stem + ".lora_up.weight", {out, rank});
  }
  Maker& loha(const std::string& stem, std::int64_t out, std::int64_t in, std::int64_t rank) {
    for (const char* part : {".hada_w1", ".hada_w2"}) {
      add(stem + part + "_a", {out, rank}).add(stem + part + "_b", {rank, in});
    }
    return *this;
  }
  std::shared_ptr<const LoraFile> read(const TempFolder& folder, const std::string& name) const {
    return std::make_shared<LoraFile>(read_lora(maker_.write(folder, name)));
  }

 private:
  Maker& put(const std::string& key, const at::Tensor& values) {
    const auto flat = values.to(at::kFloat).contiguous();
    const auto* data = flat.const_data_ptr<float>();
    maker_.floats(key, flat.sizes().vec(), {data, data + flat.numel()});
    return *this;
  }

  LoraMaker maker_;
};

struct Case {
  std::string name;
  std::string layer;  // that is looked at; [kOut, kIn]
  std::function<void(Maker&)> make;
};

void PrintTo(const Case& one, std::ostream* out) { *out << one.name; }

const std::string kFf = "transformer_blocks.0.ff.net.2",
                  kFfKey = "lora_unet_double_blocks_0_img_mlp_2";
const std::string kQkvKey = "lora_unet_double_blocks_0_img_attn_qkv";
const std::string kToK = "transformer_blocks.0.attn.to_k", kToV = "transformer_blocks.0.attn.to_v";
const std::string kLinear1 = "lora_unet_single_blocks_0_linear1";
const std::string kSwapped = "lora_unet_final_layer_adaLN_modulation_1";

// Weights of the tests are randn * 0.2.
const double kRowLength = 0.2 * std::sqrt(kIn), kColumnLength = 0.2 * std::sqrt(kOut);

const std::vector<Case> kCases = {
    {"Lora", kFf, [](Maker& m) { m.lora(kFfKey, kOut, kIn, 4).alpha(kFfKey, 2); }},
    {"LoraOfRank1", kFf, [](Maker& m) { m.lora(kFfKey, kOut, kIn, 1); }},
    {"LoraOfHighRank", kFf, [](Maker& m) { m.lora(kFfKey, kOut, kIn, 50); }},
    {"LoraOfFusedRows", kToK, [](Maker& m) { m.lora(kQkvKey, 3 * kOut, kIn, 4); }},
    {"LoraOfSwappedHalves", "norm_out.linear", [](Maker& m) { m.lora(kSwapped, kOut, kIn, 4); }},
    {"LoraBias", kFf,
     [](Maker& m) {
       m.add(kFf + ".lora_A.weight", {4, kIn}).add(kFf + ".lora_B.weight", {kOut, 4});
       m.add(kFf + ".lora_B.bias", {kOut});
     }},
    {"Loha", kFf, [](Maker& m) { m.loha(kFfKey, kOut, kIn, 3).alpha(kFfKey, 2); }},
    {"LohaOfHighRank", kFf, [](Maker& m) { m.loha(kFfKey, kOut, kIn, 8); }},
    {"LohaOfFusedRows", kToK, [](Maker& m) { m.loha(kQkvKey, 3 * kOut, kIn, 2); }},
    {"LokrOfWholeMatrices", kFf,
     [](Maker& m) {
       m.add(kFfKey + ".lokr_w1", {4, 8}).add(kFfKey + ".lokr_w2", {16, 12});
     }},
    {"LokrOfProducts", kFf,
     [](Maker& m) {
       m.add(kFfKey + ".lokr_w1_a", {4, 2}).add(kFfKey + ".lokr_w1_b", {2, 8});
       m.add(kFfKey + ".lokr_w2_a", {16, 2}).add(kFfKey + ".lokr_w2_b", {2, 12});
       m.alpha(kFfKey, 3);
     }},
    // Rows of k begin within a row of w1.
    {"LokrOfFusedRows", kToK,
     [](Maker& m) {
       m.add(kQkvKey + ".lokr_w1", {4, 4}).add(kQkvKey + ".lokr_w2", {3 * kOut / 4, kIn / 4});
     }},
    {"LokrOfFusedMlp", "single_transformer_blocks.0.attn.to_v",
     [](Maker& m) {
       m.add(kLinear1 + ".lokr_w1", {2, 4}).add(kLinear1 + ".lokr_w2", {7 * kOut / 2, kIn / 4});
     }},
    {"Full", kFf,
     [](Maker& m) {
       m.add(kFfKey + ".diff", {kOut, kIn}).add(kFfKey + ".diff_b", {kOut});
     }},
    {"FullOfFusedRows", kToV,
     [](Maker& m) {
       m.add(kQkvKey + ".diff", {3 * kOut, kIn}).add(kQkvKey + ".diff_b", {3 * kOut});
     }},
    {"DoraByRow", kFf,
     [](Maker& m) {
       m.lora(kFfKey, kOut, kIn, 4).dora(kFfKey, {kOut, 1}, kRowLength);
     }},
    {"DoraByColumn", kFf,
     [](Maker& m) {
       m.lora(kFfKey, kOut, kIn, 4).dora(kFfKey, {1, kIn}, kColumnLength);
     }},
    {"DoraOfFusedRows", kToV,
     [](Maker& m) {
       m.lora(kQkvKey, 3 * kOut, kIn, 4).dora(kQkvKey, {3 * kOut, 1}, kRowLength);
     }},
    {"DoraByRowOfSwappedHalves", "norm_out.linear",
     [](Maker& m) { m.lora(kSwapped, kOut, kIn, 4).dora(kSwapped, {kOut}, kRowLength); }},
    {"DoraByColumnOfSwappedHalves", "norm_out.linear",
     [](Maker& m) {
       m.lora(kSwapped, kOut, kIn, 4).dora(kSwapped, {1, kIn}, kColumnLength);
     }},
    {"DoraOfLoha", kFf,
     [](Maker& m) {
       m.loha(kFfKey, kOut, kIn, 3).dora(kFfKey, {kOut, 1}, kRowLength);
     }},
    {"DoraByColumnOfLokr", kFf,
     [](Maker& m) {
       m.add(kFfKey + ".lokr_w1", {4, 8}).add(kFfKey + ".lokr_w2", {16, 12});
       m.dora(kFfKey, {1, kIn}, kColumnLength);
     }},
};

at::Tensor to_double(const Matrix& matrix) {
  auto values = matrix.values;
  return at::from_blob(values.data(), {matrix.rows, matrix.columns}, at::kDouble).clone();
}

// What the terms of a layer add to its weight, by the definition.
at::Tensor exact_change(const LoraFile& file, const std::string& layer, double strength,
                        const at::Tensor& weight) {
  auto change = at::zeros_like(weight);
  for (const auto& target : file.targets) {
    if (target.layer != layer) continue;
    for (const auto& term : target.terms) {
      if (!term.first) continue;
      auto changed = weight + strength * to_double(delta_of(term)).view(weight.sizes());
      if (term.dora_scale) {
        auto scale = to_matrix(*term.dora_scale);
        if (term.dora_on_output) scale = select(scale, term.rows);
        const auto dim = term.dora_on_output ? 1 : 0;
        const auto norms = changed.square().sum(dim, /*keepdim=*/true).sqrt();
        changed = changed * to_double(scale).view(norms.sizes()) / norms;
      }
      change += changed - weight;
    }
  }
  return change;
}

double relative_difference(const at::Tensor& found, const at::Tensor& expected) {
  const auto difference = found.to(at::kDouble) - expected.to(at::kDouble);
  return difference.abs().max().item<double>() / expected.abs().max().item<double>();
}

// fp32 may fall on the other side of a tie between two numbers of bf16, but hardly ever; where
// something was rounded twice, every third value or so is another.
void expect_rounded_once(const at::Tensor& found, const at::Tensor& exact) {
  const auto same = found == exact.to(at::kBFloat16);
  EXPECT_GE(same.to(at::kDouble).mean().item<double>(), 0.995);
  EXPECT_LE(relative_difference(found, exact), 1.0 / 256);
}

class LoraLayersTest : public ::testing::TestWithParam<Case> {
 protected:
  LoraLayersTest() {
    at::manual_seed(3);
    Maker first, second;
    GetParam().make(first);
    second.lora(kFfKey, kOut, kIn, 2).lora(kQkvKey, 3 * kOut, kIn, 2);
    first_ = first.read(folder_, "first");
    second_ = second.read(folder_, "second");
    loras_.add(first_, LoraComponent::kTransformer, 0.8);
    loras_.add(second_, LoraComponent::kTransformer, -0.5);
    weight_ = at::randn({kOut, kIn}) * 0.2;
    bias_ = at::randn({kOut});
  }
  const std::string& layer() const { return GetParam().layer; }
  at::Tensor exact(const at::Tensor& weight) const {
    const auto before = weight.to(at::kDouble);
    return before + exact_change(*first_, layer(), 0.8, before) +
           exact_change(*second_, layer(), -0.5, before);
  }
  Linear load(const std::filesystem::path& file, at::ScalarType dtype) const {
    Linear linear;
    std::vector<TensorSlot> slots;
    linear.visit(SlotScope(slots, layer() + "."), kIn, kOut);
    LoadOptions options;
    options.dtype = dtype;
    options.loras = &loras_;
    load_slots(Checkpoint::open(file), slots, options);
    return linear;
  }

  const c10::InferenceMode inference_mode_;
  const TempFolder folder_;
  std::shared_ptr<const LoraFile> first_, second_;
  LoraLayers loras_;
  at::Tensor weight_, bias_;
};

TEST_P(LoraLayersTest, MergesByTheDefinition) {
  ASSERT_TRUE(loras_.changes(layer() + ".weight"));
  const auto expected = exact(weight_);
  ASSERT_GT(relative_difference(weight_, expected), 0.1);
  auto found = weight_.clone();
  loras_.merge(layer() + ".weight", found);
  // fp32 sums of a few dozen products.
  EXPECT_LE(relative_difference(found, expected), 1e-6);
}

TEST_P(LoraLayersTest, MergesIntoBf16WithOneRounding) {
  auto found = weight_.to(at::kBFloat16);
  const auto expected = exact(found);
  loras_.merge(layer() + ".weight", found);
  expect_rounded_once(found, expected);
}

// A packed layer computes what a plain one does into whose values the LoRAs were merged.
TEST_P(LoraLayersTest, BranchesAddWhatMergingWould) {
  const NamedTensors tensors = {{layer() + ".weight", weight_}, {layer() + ".bias", bias_}};
  const auto x = at::randn({2, 7, kIn});
  for (const auto dtype : {DType::kQ8_0, DType::kF8E4M3}) {
    const auto packed = load(write_weights(folder_.path(), tensors, dtype), at::kFloat);
    ASSERT_TRUE(packed.packed && packed.branches);
    const auto unpacked = packed.packed->unpacked(at::kFloat);
    const TempFolder other;
    const auto plain = load(
        write_weights(other.path(), {{layer() + ".weight", unpacked}, {layer() + ".bias", bias_}},
                      DType::kF32),
        at::kFloat);
    ASSERT_FALSE(plain.packed || plain.branches);
    const auto expected = plain(x);
    EXPECT_GT(relative_difference(at::linear(x, unpacked, plain.bias), expected), 0.1);
    EXPECT_LE(relative_difference(packed(x), expected), 1e-5) << to_string(dtype);
    // One token more or less changes nothing for the others.
    EXPECT_LE(relative_difference(packed(x.select(0, 0)), expected.select(0, 0)), 1e-5);
    EXPECT_LE(relative_difference(packed(x.select(0, 0).select(0, 0)), expected[0][0]), 1e-5);
    // bf16 rounds factors, what they make of x, and every sum: a few times 2^-9 of the largest.
    const auto rounded = load(write_weights(folder_.path(), tensors, dtype), at::kBFloat16);
    EXPECT_LE(relative_difference(rounded(x.to(at::kBFloat16)), expected), 0.03);
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, LoraLayersTest, ::testing::ValuesIn(kCases),
                         [](const auto& one) { return one.param.name; });

class LoraMerge : public ::testing::Test {
 protected:
  LoraMerge() { at::manual_seed(4); }

  LoraLayers layers(const Maker& maker, double strength = 1) {
    LoraLayers result;
    file_ = maker.read(folder_, "lora");
    result.add(file_, LoraComponent::kTransformer, strength);
    return result;
  }

  const c10::InferenceMode inference_mode_;
  const TempFolder folder_;
  std::shared_ptr<const LoraFile> file_;
};

// More values than are merged at a time.
TEST_F(LoraMerge, GoesThroughLargeWeightsInChunks) {
  constexpr std::int64_t kRows = 2100, kColumns = 2048;
  const auto weight = at::randn({kRows, kColumns}) * 0.1;
  for (const auto& shape : {std::vector<std::int64_t>{}, {kRows, 1}, {1, kColumns}}) {
    Maker maker;
    maker.lora(kFfKey, kRows, kColumns, 3);
    if (!shape.empty()) maker.dora(kFfKey, shape, 5);
    auto found = weight.clone();
    layers(maker, 0.7).merge(kFf + ".weight", found);
    const auto exact = weight.to(at::kDouble);
    EXPECT_LE(relative_difference(found, exact + exact_change(*file_, kFf, 0.7, exact)), 1e-6);
  }
}

TEST_F(LoraMerge, BiasesOfSeveralAreRoundedOnce) {
  Maker maker;
  maker.add(kFfKey + ".diff_b", {1000});
  auto loras = layers(maker);
  for (const double strength : {0.3, -0.7, 0.01}) {
    loras.add(file_, LoraComponent::kTransformer, strength);
  }
  EXPECT_FALSE(loras.changes(kFf + ".weight"));
  ASSERT_TRUE(loras.changes(kFf + ".bias"));
  const auto before = at::randn({1000}).to(at::kBFloat16);
  const auto change = to_double(to_matrix(*file_->targets[0].terms[0].bias)).flatten();
  const auto expected = before.to(at::kDouble) + change * (1 + 0.3 - 0.7 + 0.01);
  auto found = before.clone();
  loras.merge(kFf + ".bias", found);
  expect_rounded_once(found, expected);
}

TEST_F(LoraMerge, BiasAloneLeavesAPackedWeightWithoutBranches) {
  Maker maker;
  maker.add(kFfKey + ".diff_b", {kOut});
  const auto loras = layers(maker);
  const auto path = write_weights(folder_.path(), {{"x", at::randn({kOut, kIn})}}, DType::kQ8_0);
  const auto weights = ComponentWeights(Checkpoint::open(path));
  const auto packed = PackedTensor::in_place(*weights.find("x"), at::kFloat);
  EXPECT_EQ(loras.branches(kFf + ".weight", packed), nullptr);
  EXPECT_EQ(loras.branches(kToK + ".weight", packed), nullptr);
}

TEST_F(LoraMerge, WeightsOfNorms) {
  Maker maker;
  const std::string key = "lora_unet_double_blocks_0_img_attn_norm_query_norm";
  maker.add(key + ".w_norm", {48});
  const auto before = at::randn({48});
  auto found = before.clone();
  layers(maker, 0.5).merge("transformer_blocks.0.attn.norm_q.weight", found);
  const auto change = to_double(to_matrix(file_->targets.at(0).terms[0].first->left)).flatten();
  EXPECT_LE(relative_difference(found, before.to(at::kDouble) + 0.5 * change), 1e-6);
}

// A Control LoRA has them as they are to be.
TEST_F(LoraMerge, WholeNormsWhateverTheStrength) {
  Maker maker;
  maker.lora(kFfKey, kOut, kIn, 2);
  maker.add("double_blocks.0.img_attn.norm.query_norm.scale", {48});
  for (const double strength : {1.0, 0.5, 0.0}) {
    const auto loras = layers(maker, strength);
    const std::string norm = "transformer_blocks.0.attn.norm_q.weight";
    ASSERT_TRUE(loras.changes(norm));
    auto found = at::randn({48});
    loras.merge(norm, found);
    for (const auto& target : file_->targets) {
      if (target.terms[0].kind != LoraKind::kWhole) continue;
      EXPECT_TRUE(at::equal(found, to_tensor(target.terms[0].first->left)));
    }
    EXPECT_EQ(loras.changes(kFf + ".weight"), strength > 0);
  }
}

// A LoRA for dev on a layer that has more columns in Depth and Canny.
TEST_F(LoraMerge, FewerColumnsAreTheFirstOnes) {
  for (const bool is_kronecker : {false, true}) {
    Maker maker;
    if (is_kronecker) {
      maker.add(kFfKey + ".lokr_w1", {8, 8}).add(kFfKey + ".lokr_w2", {kOut / 8, kIn / 16});
    } else {
      maker.lora(kFfKey, kOut, kIn / 2, 2);
    }
    const auto loras = layers(maker);
    const auto before = at::randn({kOut, kIn});
    auto found = before.clone();
    loras.merge(kFf + ".weight", found);
    const auto change = found - before;
    EXPECT_EQ(change.narrow(1, kIn / 2, kIn / 2).abs().max().item<float>(), 0);
    EXPECT_GT(change.narrow(1, 0, kIn / 2).abs().mean().item<float>(), 0.01);
    // Beside a packed weight too.
    const auto path = write_weights(folder_.path(), {{"x", before}}, DType::kQ8_0);
    const ComponentWeights weights(Checkpoint::open(path));
    const auto packed = PackedTensor::in_place(*weights.find("x"), at::kFloat);
    const auto branches = loras.branches(kFf + ".weight", packed);
    ASSERT_EQ(branches->size(), 1U);
    const auto x = at::randn({5, kIn});
    EXPECT_LE(relative_difference(branches->front()->operator()(x, {}), at::linear(x, change)),
              1e-4);
  }
}

// Nothing that has a length for DoRA to set: 0 and not NaN.
TEST_F(LoraMerge, DoraOfARowOfZeros) {
  Maker maker;
  maker.lora(kFfKey, kOut, kIn, 2).dora(kFfKey, {kOut, 1}, kRowLength);
  auto weight = at::randn({kOut, kIn});
  weight[3].zero_();
  auto loras = layers(maker, 1e-30);  // its own rows are as good as nothing
  loras.merge(kFf + ".weight", weight);
  EXPECT_TRUE(weight.isfinite().all().item<bool>());
  EXPECT_LE(weight[3].abs().max().item<double>(), 1e-6);
}

TEST_F(LoraMerge, StrengthOf0IsNoLora) {
  Maker maker;
  maker.lora(kFfKey, kOut, kIn, 2);
  EXPECT_TRUE(layers(maker, 0).empty());
  const auto loras = layers(maker);
  EXPECT_FALSE(loras.empty());
  LoraLayers clip;
  clip.add(file_, LoraComponent::kTextEncoder, 1);
  EXPECT_TRUE(clip.empty());
}

// A mapped file is not written to.
TEST_F(LoraMerge, FilesStayAsTheyAre) {
  Maker maker;
  maker.lora(kFfKey, kOut, kIn, 2).add(kFfKey + ".diff_b", {kOut});
  const auto loras = layers(maker);
  Linear linear;
  std::vector<TensorSlot> slots;
  linear.visit(SlotScope(slots, kFf + "."), kIn, kOut);
  const auto weight = at::randn({kOut, kIn});
  const auto path = write_weights(
      folder_.path(), {{kFf + ".weight", weight}, {kFf + ".bias", at::ones({kOut})}}, DType::kF32);
  const auto before = folder_.read(path.filename());
  LoadOptions options;
  options.loras = &loras;
  load_slots(Checkpoint::open(path), slots, options);
  EXPECT_FALSE(at::equal(linear.weight, weight));
  EXPECT_EQ(folder_.read(path.filename()), before);
  options.loras = nullptr;
  load_slots(Checkpoint::open(path), slots, options);
  EXPECT_TRUE(at::equal(linear.weight, weight));
}

}  // namespace
}  // namespace steadyflux
