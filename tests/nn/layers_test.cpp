// The layers by their definitions, written out in fp64, and the slots they ask for.
#include "nn/layers.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cmath>

namespace steadyflux {
namespace {

class Layers : public ::testing::Test {
 protected:
  Layers() { at::manual_seed(5); }

  // fp32 sums of at most a few hundred terms of size 1: 1e-5 is some hundred ulps.
  static void expect_near(const at::Tensor& found, const at::Tensor& expected) {
    ASSERT_EQ(found.sizes(), expected.sizes());
    EXPECT_LE((found.to(at::kDouble) - expected).abs().max().item<double>(), 1e-5);
  }

  // Random tensors for all slots, as a checkpoint would bind them.
  void fill() {
    for (const auto& slot : slots_) *slot.tensor = at::randn(slot.shape);
  }
  std::string names() const {
    std::string text;
    for (const auto& slot : slots_)
      text.append(slot.name).append(shape_to_text(slot.shape)).append(" ");
    return text;
  }
  static std::string shape_to_text(const std::vector<std::int64_t>& shape) {
    std::string text;
    for (const auto size : shape)
      text.append(text.empty() ? "[" : ",").append(std::to_string(size));
    return text.append("]");
  }

  const c10::InferenceMode inference_mode_;
  std::vector<TensorSlot> slots_;
  const SlotScope scope_{slots_, "m."};
};

TEST_F(Layers, Linear) {
  Linear with_bias, without_bias;
  with_bias.visit(scope_.scope("fc", 1), 5, 3);
  without_bias.visit(scope_.scope("q"), 5, 3, /*has_bias=*/false);
  EXPECT_EQ(names(), "m.fc.1.weight[3,5] m.fc.1.bias[3] m.q.weight[3,5] ");
  fill();
  const auto x = at::randn({2, 4, 5});
  const auto d = at::kDouble;
  const auto product = at::matmul(x.to(d), with_bias.weight.to(d).t());
  expect_near(with_bias(x), product + with_bias.bias.to(d));
  expect_near(without_bias(x), at::matmul(x.to(d), without_bias.weight.to(d).t()));
}

TEST_F(Layers, LayerNorm) {
  LayerNorm norm;
  norm.visit(scope_, 6);
  EXPECT_EQ(names(), "m.weight[6] m.bias[6] ");
  fill();
  const auto x = at::randn({3, 6});
  const auto d = x.to(at::kDouble);
  const auto centred = d - d.mean(-1, true);
  const auto unit = centred / (centred.pow(2).mean(-1, true) + 0.1).sqrt();
  expect_near(norm(x, 0.1), unit * norm.weight.to(at::kDouble) + norm.bias.to(at::kDouble));
  expect_near(layer_norm_no_affine(x, 0.1), unit);
}

TEST_F(Layers, GroupNorm) {
  GroupNorm norm;
  norm.visit(scope_, 6);
  fill();
  const auto x = at::randn({2, 6, 3, 4});
  const auto d = x.to(at::kDouble).view({2, 3, -1});  // 3 groups of 2 channels
  const auto centred = d - d.mean(-1, true);
  const auto unit = (centred / (centred.pow(2).mean(-1, true) + 0.1).sqrt()).view(x.sizes());
  const auto channel = [](const at::Tensor& t) { return t.to(at::kDouble).view({1, 6, 1, 1}); };
  expect_near(norm(x, 3, 0.1), unit * channel(norm.weight) + channel(norm.bias));
}

TEST_F(Layers, ConvolutionKeepsHeightAndWidth) {
  for (const std::int64_t kernel : {1, 3}) {
    slots_.clear();
    Conv2d conv;
    conv.visit(scope_, 2, 3, kernel);
    fill();
    const auto x = at::randn({1, 2, 5, 4});
    const auto padded = at::constant_pad_nd(x.to(at::kDouble), {1, 1, 1, 1});
    const auto first = kernel == 3 ? 0 : 1;
    auto expected = conv.bias.to(at::kDouble).view({1, 3, 1, 1}).expand({1, 3, 5, 4}).clone();
    for (std::int64_t i = 0; i < kernel; ++i) {
      for (std::int64_t j = 0; j < kernel; ++j) {
        const auto window = padded.narrow(2, first + i, 5).narrow(3, first + j, 4);
        const auto weight = conv.weight.to(at::kDouble).select(3, j).select(2, i);  // [3, 2]
        expected += at::matmul(weight, window.flatten(2)).view({1, 3, 5, 4});
      }
    }
    expect_near(conv(x), expected);
  }
}

TEST_F(Layers, EmbeddingTakesRows) {
  Embedding embedding;
  embedding.visit(scope_, 7, 3).aliases = {"tied.weight"};
  EXPECT_EQ(slots_.at(0).aliases.at(0), "tied.weight");
  fill();
  const auto found = embedding(at::tensor({6, 0, 6}, at::kLong).view({1, 3}));
  ASSERT_EQ(found.sizes(), (std::vector<std::int64_t>{1, 3, 3}));
  EXPECT_TRUE(at::equal(found[0][0], embedding.weight[6]));
  EXPECT_TRUE(at::equal(found[0][1], embedding.weight[0]));
  EXPECT_TRUE(at::equal(found[0][2], embedding.weight[6]));
}

TEST_F(Layers, SplitHeadsIsAView) {
  const auto x = at::randn({2, 3, 8});
  const auto heads = split_heads(x, 4);
  ASSERT_EQ(heads.sizes(), (std::vector<std::int64_t>{2, 2, 3, 4}));
  EXPECT_TRUE(heads.is_alias_of(x));
  EXPECT_TRUE(at::equal(heads[1][1][2], x[1][2].narrow(0, 4, 4)));
}

TEST_F(Layers, Attention) {
  const auto q = at::randn({2, 3, 5, 4}), k = at::randn({2, 3, 5, 4}), v = at::randn({2, 3, 5, 4});
  const auto d = at::kDouble;
  const auto scores = at::matmul(q.to(d), k.to(d).transpose(2, 3));
  const auto expected = [&](const at::Tensor& logits) {
    return at::matmul(at::softmax(logits, -1), v.to(d)).transpose(1, 2).reshape({2, 5, 12});
  };
  expect_near(attention(q, k, v), expected(scores / 2));
  expect_near(attention(q, k, v, {}, false, 1.0), expected(scores));
  const auto mask = at::randn({1, 3, 5, 5});
  expect_near(attention(q, k, v, mask), expected(scores / 2 + mask.to(d)));
  const auto hidden = at::ones({5, 5}, at::kBool).triu(1);
  expect_near(attention(q, k, v, {}, /*is_causal=*/true),
              expected((scores / 2).masked_fill(hidden, -INFINITY)));
}

}  // namespace
}  // namespace steadyflux
