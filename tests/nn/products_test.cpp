#include "nn/products.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "config/widened.h"

namespace steadyflux {
namespace {

class Widened : public testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override { at::manual_seed(7); }

  static at::Tensor values(at::IntArrayRef shape) { return at::randn(shape).to(GetParam()); }

  // Nothing but the result's own rounding: half a unit of bf16's or fp16's last place. What fp32
  // sums round is far below; the part of it that shifts a tie is allowed for with 1 %.
  static void expect_rounded_once(const at::Tensor& found, const at::Tensor& exact) {
    ASSERT_EQ(found.scalar_type(), GetParam());
    ASSERT_EQ(found.sizes(), exact.sizes());
    const double last_place = GetParam() == at::kHalf ? std::ldexp(1, -11) : std::ldexp(1, -8);
    const auto size = exact.abs().max();
    const auto excess =
        (found.to(at::kDouble) - exact).abs() - 1.01 * last_place * exact.abs() - 1e-6 * size;
    EXPECT_LE(excess.max().item<double>(), 0);
  }
};

TEST_P(Widened, LinearRoundsOnce) {
  // More outputs than are multiplied at once, and what is left over of them.
  const auto outputs = widened_outputs(40) + 33;
  for (const std::int64_t rows : {1, 5, 64}) {
    const auto x = values({2, rows, 40}), weight = values({outputs, 40}), bias = values({outputs});
    const auto exact = at::linear(x.to(at::kDouble), weight.to(at::kDouble), bias.to(at::kDouble));
    expect_rounded_once(widened::linear(x, weight, bias), exact);
    expect_rounded_once(widened::linear(x, weight, {}), exact - bias.to(at::kDouble));
  }
}

TEST_P(Widened, ConvolutionRoundsOnce) {
  const auto x = values({1, 8, 9, 7}), weight = values({12, 8, 3, 3}), bias = values({12});
  const auto exact = at::conv2d(x.to(at::kDouble), weight.to(at::kDouble), bias.to(at::kDouble),
                                at::IntArrayRef{2, 2}, at::IntArrayRef{0, 1});
  expect_rounded_once(widened::conv2d(x, weight, bias, {2, 2}, {0, 1}), exact);
}

TEST_P(Widened, AttentionRoundsOnce) {
  // So long that not all heads fit together.
  const std::int64_t heads = 5, keys = 9000, head_dim = 128;
  ASSERT_LT(widened_heads(heads, 70, keys, head_dim), heads);
  const auto q = values({1, heads, 70, head_dim}), k = values({1, heads, keys, head_dim}),
             v = values({1, heads, keys, head_dim});
  const auto plain = at::scaled_dot_product_attention(
      q.to(at::kDouble), k.to(at::kDouble), v.to(at::kDouble), std::nullopt, 0.0, false, 0.25);
  expect_rounded_once(widened::scaled_dot_product_attention(q, k, v, {}, false, 0.25), plain);
  const auto mask = values({1, heads, 70, keys});  // one for each head, as T5's
  const auto masked = at::scaled_dot_product_attention(q.to(at::kDouble), k.to(at::kDouble),
                                                       v.to(at::kDouble), mask.to(at::kDouble));
  expect_rounded_once(widened::scaled_dot_product_attention(q, k, v, mask, false, std::nullopt),
                      masked);
}

INSTANTIATE_TEST_SUITE_P(Dtypes, Widened, testing::Values(at::kBFloat16, at::kHalf));

TEST(Products, AreLibtorchsOwnInFp32) {
  at::manual_seed(8);
  const auto x = at::randn({3, 16}), weight = at::randn({8, 16}), bias = at::randn({8});
  EXPECT_FALSE(is_widened(x));
  EXPECT_TRUE(at::equal(products::linear(x, weight, bias), at::linear(x, weight, bias)));
}

}  // namespace
}  // namespace steadyflux
