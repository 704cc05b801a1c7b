// One pass over memory gives what the operators give that it stands for.
#include "nn/row_kernels.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <string>
#include <tuple>

namespace steadyflux {
namespace {

constexpr double kEps = 1e-6;

// Rows and their length: odd ones, one value, more rows than a thread takes at once.
using Shape = std::tuple<std::int64_t, std::int64_t>;

class RowKernels : public testing::TestWithParam<std::tuple<Shape, at::ScalarType>> {
 protected:
  void SetUp() override { at::manual_seed(5); }

  std::int64_t rows() const { return std::get<0>(std::get<0>(GetParam())); }
  std::int64_t dim() const { return std::get<1>(std::get<0>(GetParam())); }
  at::ScalarType dtype() const { return std::get<1>(GetParam()); }

  // Every second row of a taller tensor: rows need not lie one behind the other.
  at::Tensor values(double mean = 0.0) const {
    return at::randn({2 * rows(), dim()}).add_(mean).to(dtype()).slice(0, 0, 2 * rows(), 2);
  }
  at::Tensor vector() const { return at::randn({dim()}).to(dtype()); }

  // A sum that is taken in another order may move a value to the next number of its dtype, and what
  // is computed from it by as much: so 2 roundings of the largest value.
  void expect_same(const at::Tensor& found, const at::Tensor& expected) const {
    ASSERT_EQ(found.sizes(), expected.sizes());
    ASSERT_EQ(found.scalar_type(), expected.scalar_type());
    const double rounding = dtype() == at::kFloat  ? 0x1p-22
                            : dtype() == at::kHalf ? 0x1p-11
                                                   : 0x1p-8;
    const double largest = expected.abs().max().item().toDouble();
    const auto off = (found.to(at::kDouble) - expected.to(at::kDouble)).abs();
    EXPECT_LE(off.max().item().toDouble(), 2 * rounding * largest);
    // And most are the same to the bit, where there are bits to lose.
    if (dtype() != at::kFloat) {
      EXPECT_GE(found.eq(expected).to(at::kDouble).mean().item().toDouble(), 0.9);
    }
  }
};

TEST_P(RowKernels, ModulatedLayerNorm) {
  const auto x = values(3.0), shift = vector(), scale = vector();
  ASSERT_TRUE(has_row_kernels(x));
  const auto expected = at::layer_norm(x, {dim()}, {}, {}, kEps).mul(scale + 1).add(shift);
  expect_same(modulated_layer_norm_cpu(x, shift, scale, kEps), expected);
}

TEST_P(RowKernels, AddGated) {
  const auto residual = values(), x = values(), gate = vector();
  const auto expected = residual + x * gate;
  auto found = residual.clone();
  add_gated_cpu_(found, x, gate);
  // No sum: in fp32 multiplication and addition may be one instruction, else bits are equal.
  if (dtype() == at::kFloat) {
    EXPECT_TRUE(at::allclose(found, expected, 1e-6, 1e-6));
  } else {
    EXPECT_TRUE(at::equal(found, expected));
  }
}

TEST_P(RowKernels, RmsNorm) {
  const auto x = values(0.5), weight = vector();
  const auto variance = x.to(at::kFloat).pow(2).mean(-1, true);
  const auto expected = weight * (x * at::rsqrt(variance + kEps)).to(dtype());
  expect_same(rms_norm_cpu(x, weight, kEps), expected);
}

TEST_P(RowKernels, Gelu) {
  const auto x = values().mul(3), expected = at::gelu(x, "tanh");
  auto wide = at::zeros({x.size(0), 2 * dim()}, x.options());
  gelu_cpu(x, wide.narrow(1, dim(), dim()));
  expect_same(wide.narrow(1, dim(), dim()), expected);
  EXPECT_TRUE(wide.narrow(1, 0, dim()).eq(0).all().item().toBool());
  const auto in_place = x.clone();
  gelu_cpu(in_place, in_place);
  EXPECT_TRUE(at::equal(in_place, wide.narrow(1, dim(), dim())));
}

TEST_P(RowKernels, GatedGelu) {
  const auto x = values().mul(3), up = values();
  const auto inner = (x + at::pow(x, 3.0) * 0.044715) * std::sqrt(2.0 / std::numbers::pi);
  auto found = x.clone();
  gated_gelu_cpu_(found, up, TanhGelu::kEightOperations);
  expect_same(found, x * 0.5 * (at::tanh(inner) + 1.0) * up);
  found = x.clone();
  gated_gelu_cpu_(found, up, TanhGelu::kOneOperation);
  expect_same(found, at::gelu(x, "tanh") * up);
}

TEST_P(RowKernels, NormedAndRotated) {
  for (const std::int64_t head_dim : {2, 6, 64}) {
    const auto heads = dim() % head_dim == 0 ? dim() / head_dim : 1;
    const auto x = at::randn({rows(), heads * head_dim}).mul_(4).to(dtype());
    const auto weight = at::randn({head_dim}).to(dtype());
    const auto angles = at::randn({rows(), head_dim / 2}).repeat_interleave(2, 1);
    const RotaryEmbedding emb{angles.cos(), angles.sin()};
    auto expected =
        at::rms_norm(x.unflatten(1, {heads, head_dim}), {head_dim}, weight, kEps).unsqueeze(0);
    apply_rotary_emb_(expected, emb);
    const auto found = at::empty({rows(), heads, head_dim}, x.options());
    normed_and_rotated_cpu(x, weight, kEps, emb, found);
    expect_same(found, expected.squeeze(0));
  }
}

TEST_P(RowKernels, DoNotDependOnThreadsOrCuts) {
  const auto x = values(), shift = vector(), scale = vector();
  const auto threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto whole = modulated_layer_norm_cpu(x, shift, scale, kEps);
  at::set_num_threads(3);
  EXPECT_TRUE(at::equal(modulated_layer_norm_cpu(x, shift, scale, kEps), whole));
  at::set_num_threads(threads);
  for (std::int64_t row = 0; row < rows(); ++row) {
    const auto alone = modulated_layer_norm_cpu(x.narrow(0, row, 1), shift, scale, kEps);
    EXPECT_TRUE(at::equal(alone, whole.narrow(0, row, 1)));
  }
}

std::string name_of(const testing::TestParamInfo<RowKernels::ParamType>& info) {
  const auto& [shape, dtype] = info.param;
  return std::to_string(std::get<0>(shape)) + "x" + std::to_string(std::get<1>(shape)) + "_" +
         at::toString(dtype);
}

INSTANTIATE_TEST_SUITE_P(Shapes, RowKernels,
                         testing::Combine(testing::Values(Shape{1, 2}, Shape{3, 30}, Shape{17, 66},
                                                          Shape{5, 192}, Shape{33, 3072}),
                                          testing::Values(at::kFloat, at::kBFloat16, at::kHalf)),
                         name_of);

TEST(RowKernelsUse, IsForRowsOfNumbersOnTheCpu) {
  EXPECT_TRUE(has_row_kernels(at::empty({4, 8})));
  EXPECT_TRUE(has_row_kernels(at::empty({0, 8}, at::kBFloat16)));
  EXPECT_FALSE(has_row_kernels(at::empty({4, 8}, at::kDouble)));
  EXPECT_FALSE(has_row_kernels(at::empty({2, 4, 8})));
  EXPECT_FALSE(has_row_kernels(at::empty({8, 4}).t()));
}

TEST(RowKernelsUse, NotANumberStaysOne) {
  auto x = at::zeros({2, 64}, at::kBFloat16);
  x[1][3] = std::numeric_limits<float>::quiet_NaN();
  const auto ones = at::ones({64}, at::kBFloat16);
  const auto found = modulated_layer_norm_cpu(x, ones, ones, kEps);
  EXPECT_TRUE(at::equal(found[0], ones));
  EXPECT_TRUE(at::isnan(found[1]).all().item().toBool());
}

}  // namespace
}  // namespace steadyflux
