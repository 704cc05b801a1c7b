// The bf16 attention kernel against softmax(q k^T) v in fp64, on the shapes that make its blocks
// ragged, and its independence of the number of threads.
#include "nn/flash_attention_cpu.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <ostream>

namespace steadyflux {
namespace {

struct Shape {
  std::int64_t batch, heads, queries, keys, head_dim;
};

// What ctest shows as the name of a case.
std::ostream& operator<<(std::ostream& out, const Shape& s) {
  return out << s.batch << 'x' << s.heads << 'x' << s.queries << 'x' << s.keys << 'x' << s.head_dim;
}

at::Tensor heads_of(const Shape& s, std::int64_t length, double spread) {
  // [B, S, heads, head_dim] transposed, as the projections leave it.
  return (at::randn({s.batch, length, s.heads, s.head_dim}) * spread)
      .to(at::kBFloat16)
      .transpose(1, 2);
}

class FlashAttention : public testing::TestWithParam<Shape> {};

void expect_softmax_in_double(const Shape& s, const at::Tensor& bias) {
  const c10::InferenceMode inference_mode;
  at::manual_seed(7);
  const auto q = heads_of(s, s.queries, 2.0), k = heads_of(s, s.keys, 2.0),
             v = heads_of(s, s.keys, 1.0);
  if (!flash_attention_cpu_usable(q, k, v, bias)) GTEST_SKIP() << "this CPU has no AVX-512 BF16";
  const double scale = 1.0 / std::sqrt(static_cast<double>(s.head_dim));
  const auto ours = flash_attention_cpu(q, k, v, scale, bias).to(at::kDouble);

  const auto d = at::kDouble;
  auto scores = at::matmul(q.to(d), k.to(d).transpose(-1, -2)) * scale;
  if (bias.defined()) scores = scores + bias.to(d);
  const auto expected = at::matmul(at::softmax(scores, -1), v.to(d)).transpose(1, 2).flatten(2);
  ASSERT_EQ(ours.sizes(), expected.sizes());
  // Two roundings to bf16 (2^-9 relative each): of the probabilities, whose error times |v| adds up
  // to at most max|v| * 2^-9, and of the result. fp32 accumulation is far below both.
  const double bound = v.to(d).abs().max().item<double>() * std::ldexp(1.0, -8);
  EXPECT_LE((ours - expected).abs().max().item<double>(), bound);
}

TEST_P(FlashAttention, EqualsSoftmaxInDouble) { expect_softmax_in_double(GetParam(), {}); }

TEST_P(FlashAttention, AddsABias) {
  const auto s = GetParam();
  at::manual_seed(9);
  const auto bias = at::randn({s.batch, s.heads, s.queries, s.keys}) * 3.0;
  expect_softmax_in_double(s, bias.to(at::kBFloat16));
}

TEST_P(FlashAttention, AddsOneBiasToAll) {
  const auto s = GetParam();
  at::manual_seed(10);
  // As T5 has it: laid out by heads of what was looked up by pairs of tokens.
  const auto bias = (at::randn({s.queries, s.keys, s.heads}) * 3.0).permute({2, 0, 1});
  expect_softmax_in_double(s, bias.unsqueeze(0).to(at::kBFloat16).contiguous());
}

TEST(FlashAttentionBias, HasTheShapeOfTheScores) {
  const Shape s{2, 3, 5, 7, 32};
  const auto q = heads_of(s, s.queries, 1.0), k = heads_of(s, s.keys, 1.0);
  if (!flash_attention_cpu_usable(q, k, k)) GTEST_SKIP() << "this CPU has no AVX-512 BF16";
  const auto usable = [&](at::IntArrayRef shape, at::ScalarType dtype = at::kBFloat16) {
    return flash_attention_cpu_usable(q, k, k, at::zeros(shape, dtype));
  };
  EXPECT_TRUE(usable({2, 3, 5, 7}));
  EXPECT_TRUE(usable({1, 3, 5, 7}));
  EXPECT_FALSE(usable({1, 1, 5, 7}));
  EXPECT_FALSE(usable({3, 5, 7}));
  EXPECT_FALSE(usable({1, 3, 7, 5}));
  EXPECT_FALSE(usable({1, 3, 5, 7}, at::kFloat));
}

TEST_P(FlashAttention, DoesNotDependOnThreads) {
  const c10::InferenceMode inference_mode;
  at::manual_seed(8);
  const auto s = GetParam();
  const auto q = heads_of(s, s.queries, 2.0), k = heads_of(s, s.keys, 2.0),
             v = heads_of(s, s.keys, 1.0);
  if (!flash_attention_cpu_usable(q, k, v)) GTEST_SKIP() << "this CPU has no AVX-512 BF16";
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const auto one = flash_attention_cpu(q, k, v, 0.1);
  at::set_num_threads(5);
  const auto five = flash_attention_cpu(q, k, v, 0.1);
  at::set_num_threads(before);
  EXPECT_TRUE(at::equal(one, five));
}

INSTANTIATE_TEST_SUITE_P(Shapes, FlashAttention,
                         testing::Values(Shape{1, 1, 1, 1, 32}, Shape{1, 2, 64, 256, 64},
                                         Shape{2, 3, 65, 257, 32}, Shape{1, 2, 63, 33, 128},
                                         Shape{1, 1, 300, 511, 96}, Shape{1, 1, 7, 1000, 512},
                                         Shape{1, 2, 65, 513, 64}, Shape{2, 1, 64, 1057, 32}));

}  // namespace
}  // namespace steadyflux
