// Products in fewer bits against plain expressions of what they are defined as.
#include "nn/compute.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <limits>
#include <tuple>

#include "config/int8_linear.h"
#include "nn/int8_linear_cpu.h"
#include "nn/products.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

double rounding_of(at::ScalarType dtype) {
  return dtype == at::kFloat ? 0x1p-24 : dtype == at::kHalf ? 0x1p-11 : 0x1p-8;
}

at::Tensor as_double(const at::Tensor& x) { return x.to(at::kDouble); }

// Rows of a weight in 8 bits, value by value: integers and [out, 1] scales.
struct Int8Weight {
  explicit Int8Weight(const at::Tensor& weight) {
    const auto step = weight.to(at::kFloat).abs().amax(1, true) / 127.0f;
    values = as_double((weight.to(at::kFloat) * step.reciprocal()).round());
    scale = as_double(step);
  }
  at::Tensor values, scale;
};

// x W^T + b by the definition, in fp64.
at::Tensor int8_expected(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const auto rows = int8_rows(x);
  const Int8Weight w(weight);
  const auto back = (as_double(rows.values) - as_double(rows.zero).unsqueeze(1)) *
                    as_double(rows.scale).unsqueeze(1);
  const auto product = at::matmul(back, (w.values * w.scale).t());
  return bias.defined() ? product + as_double(bias) : product;
}

// The largest value may be off by the roundings on the way in fp32, and by the one into the dtype.
void expect_close(const at::Tensor& found, const at::Tensor& expected) {
  ASSERT_EQ(found.sizes(), expected.sizes());
  const double largest = expected.abs().max().item().toDouble();
  const double off = (as_double(found) - expected).abs().max().item().toDouble();
  EXPECT_LE(off, largest * (rounding_of(found.scalar_type()) + 8 * 0x1p-24));
}

// Rows of x; inputs, a multiple of four; outputs.
using Shape = std::tuple<std::int64_t, std::int64_t, std::int64_t>;

class Int8Linear : public testing::TestWithParam<std::tuple<Shape, at::ScalarType>> {
 protected:
  void SetUp() override {
    at::manual_seed(3);
    const auto [rows, in, out] = std::get<0>(GetParam());
    const auto dtype = std::get<1>(GetParam());
    // Neither lies as one block, and values of x are not around 0.
    x = at::randn({rows, in + 4}).add_(0.7).to(dtype).narrow(1, 0, in);
    weight = at::randn({out, in + 8}).to(dtype).narrow(1, 4, in);
    bias = at::randn({out}).to(dtype);
  }
  at::Tensor x, weight, bias;
};

TEST_P(Int8Linear, IsWhatItsDefinitionSays) {
  const auto found = int8_linear_cpu(x, weight, bias);
  EXPECT_EQ(found.scalar_type(), x.scalar_type());
  expect_close(found, int8_expected(x, weight, bias));
  expect_close(int8_linear_cpu(x, weight), int8_expected(x, weight, {}));
}

TEST_P(Int8Linear, IsTheSameByTheLoop) {
  if (!cpu_multiplies_int8()) GTEST_SKIP() << "there is only the loop on this CPU";
  EXPECT_TRUE(at::equal(int8_linear_cpu(x, weight, bias), int8_linear_by_loop(x, weight, bias)));
}

TEST_P(Int8Linear, IsTheSameByOperatorsOfDevices) {
  expect_close(on_device::int8_linear(x, weight, bias), int8_expected(x, weight, bias));
}

TEST_P(Int8Linear, ARowIsTheSameAmongAnyOthersOnAnyThreads) {
  const auto all = int8_linear_cpu(x, weight, bias);
  const int threads = at::get_num_threads();
  at::set_num_threads(threads == 1 ? 2 : 1);
  for (const auto row : {std::int64_t{0}, x.size(0) / 2, x.size(0) - 1}) {
    EXPECT_TRUE(
        at::equal(int8_linear_cpu(x.narrow(0, row, 1), weight, bias), all.narrow(0, row, 1)));
  }
  at::set_num_threads(threads);
}

INSTANTIATE_TEST_SUITE_P(OddShapes, Int8Linear,
                         testing::Combine(testing::Values(Shape{1, 4, 1}, Shape{3, 12, 5},
                                                          Shape{17, 260, 63}, Shape{129, 64, 64},
                                                          Shape{70, 516, 65}, Shape{300, 1028, 130},
                                                          Shape{5, 64, 600}, Shape{130, 2052, 330}),
                                          testing::Values(at::kFloat, at::kBFloat16, at::kHalf)));

TEST(Int8Rows, AreWithinAStepAndMostlyHalfOfOne) {
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const auto x =
        at::cat({at::randn({5, 37}), at::rand({5, 37}) + 3, -at::rand({5, 37})}).to(dtype);
    const auto rows = int8_rows(x);
    const auto scale = as_double(rows.scale).unsqueeze(1);
    const auto back = (as_double(rows.values) - as_double(rows.zero).unsqueeze(1)) * scale;
    // A little more than half: 0 lies on a step, and the ends of a row may be half a step off that.
    EXPECT_TRUE((back - as_double(x)).abs().le(scale * 1.001).all().item().toBool());
    EXPECT_GE(
        (back - as_double(x)).abs().le(scale * 0.501).to(at::kDouble).mean().item().toDouble(),
        0.95);
    EXPECT_TRUE(rows.zero.ge(0).logical_and(rows.zero.le(255)).all().item().toBool());
    EXPECT_EQ(rows.zero[5].item().toInt(), 0);     // of values above 0
    EXPECT_EQ(rows.zero[10].item().toInt(), 255);  // and below
  }
}

TEST(Int8Rows, OfZerosAndOfNextToNothing) {
  const auto weight = at::randn({8, 16}), bias = at::randn({8});
  for (const float value : {0.0f, std::numeric_limits<float>::denorm_min()}) {
    const auto found = int8_linear_cpu(at::full({2, 16}, value), weight, bias);
    EXPECT_TRUE(at::allclose(found, bias.expand({2, 8})));
    EXPECT_TRUE(at::equal(int8_linear_cpu(at::randn({2, 16}), at::full({8, 16}, value)),
                          at::zeros({2, 8})));
  }
}

TEST(Int8Rows, WhatIsNotFiniteIsNotHidden) {
  const auto weight = at::randn({8, 48});
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity()}) {
    for (const std::int64_t where : {0, 33, 47}) {
      auto x = at::randn({3, 48});
      x[1][where] = value;
      const auto found = int8_linear_cpu(x, weight);
      EXPECT_TRUE(found[1].isnan().all().item().toBool());
      EXPECT_TRUE(found[0].isfinite().all().item().toBool());
      EXPECT_TRUE(found[2].isfinite().all().item().toBool());
      auto bad = weight.clone();
      bad[5][where] = value;
      const auto through = int8_linear_cpu(at::randn({3, 48}), bad);
      EXPECT_TRUE(through.select(1, 5).isnan().all().item().toBool());
      EXPECT_TRUE(through.narrow(1, 0, 5).isfinite().all().item().toBool());
    }
  }
}

TEST(Int8Linear, TheLargestSumsAreExact) {
  // All 255 times all -127, in the longest rows: nothing runs over.
  const auto x = at::full({2, kMostInt8Inputs}, 255.0f);
  const auto weight = at::full({3, kMostInt8Inputs}, -127.0f);
  const double exact = -255.0 * 127.0 * static_cast<double>(kMostInt8Inputs);
  for (const auto& found : {int8_linear_cpu(x, weight), int8_linear_by_loop(x, weight),
                            on_device::int8_linear(x, weight, {})}) {
    EXPECT_TRUE(found.eq(exact).all().item().toBool()) << found << " instead of " << exact;
  }
}

TEST(Fp8Linear, IsWhatItsDefinitionSays) {
  at::manual_seed(4);
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const auto x = at::randn({19, 64}).to(dtype), weight = at::randn({48, 64}).to(dtype),
               bias = at::randn({48}).to(dtype);
    const auto rounded = [](const at::Tensor& t) {
      const auto scale = t.abs().amax(1, true).to(at::kFloat) / 448.0f;
      return as_double((t.to(at::kFloat) * scale.reciprocal()).to(at::kFloat8_e4m3fn)) *
             as_double(scale);
    };
    const auto expected = at::matmul(rounded(x), rounded(weight).t()) + as_double(bias);
    const auto found = on_device::fp8_linear(x, weight, bias);
    EXPECT_EQ(found.scalar_type(), dtype);
    // Through bf16 twice: the bias, and the result.
    const double off = (as_double(found) - expected).abs().max().item().toDouble();
    EXPECT_LE(off, 2 * 0x1p-8 * expected.abs().max().item().toDouble());
  }
}

TEST(ComputeNames, GoBothWays) {
  for (const char* name : {"auto", "bf16", "int8", "fp8"}) {
    EXPECT_EQ(compute_name(compute_of_name(name).value()), name);
  }
  EXPECT_FALSE(compute_of_name("fp16"));
}

TEST(LinearAs, TakesTheDtypeWhereRowsDoNotFit) {
  const auto x = at::randn({3, 6}), weight = at::randn({5, 6}), bias = at::randn({5});
  const auto plain = products::linear(x, weight, bias);
  for (const auto compute : {Compute::kDtype, Compute::kInt8, Compute::kFp8}) {
    EXPECT_TRUE(at::equal(linear_as(compute, x, weight, bias), plain));
  }
}

TEST(LinearAs, KeepsTheDtype) {
  const auto x = at::randn({2, 3, 32}), weight = at::randn({16, 32}), bias = at::randn({16});
  const auto plain = products::linear(x, weight, bias);
  for (const auto compute : {Compute::kBf16, Compute::kInt8, Compute::kFp8}) {
    const auto found = linear_as(compute, x, weight, bias);
    EXPECT_EQ(found.scalar_type(), at::kFloat);
    EXPECT_EQ(found.sizes(), plain.sizes());
    EXPECT_FALSE(at::equal(found, plain)) << compute_name(compute);
    EXPECT_LT((found - plain).norm().item().toDouble() / plain.norm().item().toDouble(), 0.06)
        << compute_name(compute);
  }
}

TEST(CheckCompute, Fp8NeedsACard) {
  EXPECT_THROW(check_compute(Compute::kFp8, c10::Device("cpu")), Error);
  EXPECT_NO_THROW(check_compute(Compute::kInt8, c10::Device("cpu")));
}

}  // namespace
}  // namespace steadyflux
