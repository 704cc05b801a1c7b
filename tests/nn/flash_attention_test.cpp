// The attention kernel against softmax(q k^T) v in fp64, on the shapes that make its blocks
// ragged, and its independence of the number of threads.
#include "nn/flash_attention_cpu.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <ostream>
#include <tuple>

namespace steadyflux {
namespace {

struct Shape {
  std::int64_t batch, heads, queries, keys, head_dim;
};

// What ctest shows as the name of a case.
std::ostream& operator<<(std::ostream& out, const Shape& s) {
  return out << s.batch << 'x' << s.heads << 'x' << s.queries << 'x' << s.keys << 'x' << s.head_dim;
}

class FlashAttention : public testing::TestWithParam<std::tuple<Shape, at::ScalarType>> {
 protected:
  void SetUp() override {
    at::manual_seed(7);
    q = heads(s.queries, 2.0);
    k = heads(s.keys, 2.0);
    v = heads(s.keys, 1.0);
    if (!flash_attention_cpu_usable(q, k, v)) GTEST_SKIP() << "not on this CPU";
  }

  // [B, S, heads, head_dim] transposed, as the projections leave it.
  at::Tensor heads(std::int64_t length, double spread) const {
    return (at::randn({s.batch, length, s.heads, s.head_dim}) * spread)
        .to(std::get<1>(GetParam()))
        .transpose(1, 2);
  }

  const c10::InferenceMode inference_mode;
  const Shape s = std::get<0>(GetParam());
  at::Tensor q, k, v;
};

TEST_P(FlashAttention, EqualsSoftmaxInDouble) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(s.head_dim));
  const auto ours = flash_attention_cpu(q, k, v, scale);
  EXPECT_EQ(ours.scalar_type(), q.scalar_type());

  const auto d = at::kDouble;
  const auto p = at::softmax(at::matmul(q.to(d), k.to(d).transpose(-1, -2)) * scale, -1);
  const auto expected = at::matmul(p, v.to(d)).transpose(1, 2).flatten(2);
  ASSERT_EQ(ours.sizes(), expected.sizes());
  // At most two roundings to 16 bits: of the probabilities, whose error times |v| adds up to at
  // most max|v| times the rounding, and of the result. In fp32 scores of about 100 are off by 2^-24
  // of that, and probabilities by as much of themselves; sums are of up to 1000 terms.
  const auto dtype = q.scalar_type();
  const double bound = dtype == at::kBFloat16 ? 0x1p-8 : dtype == at::kHalf ? 0x1p-11 : 0x1p-16;
  EXPECT_LE((ours.to(d) - expected).abs().max().item<double>(),
            bound * v.to(d).abs().max().item<double>());
}

TEST_P(FlashAttention, DoesNotDependOnThreads) {
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const auto one = flash_attention_cpu(q, k, v, 0.1);
  at::set_num_threads(5);
  const auto five = flash_attention_cpu(q, k, v, 0.1);
  at::set_num_threads(before);
  EXPECT_TRUE(at::equal(one, five));
}

TEST_P(FlashAttention, ScoresFarApartAreAsGood) {
  // One key outdoes all others, and the last one: sums begin anew in mid-way, weights become 0.
  auto far = k.clone();
  far.select(2, s.keys / 2).copy_(q.select(2, 0)).mul_(20);
  const auto ours = flash_attention_cpu(q.narrow(2, 0, 1), far, v, 1.0);
  const auto d = at::kDouble;
  const auto p = at::softmax(at::matmul(q.narrow(2, 0, 1).to(d), far.to(d).transpose(-1, -2)), -1);
  const auto expected = at::matmul(p, v.to(d)).transpose(1, 2).flatten(2);
  // Scores of thousands are off by 2^-24 of that in fp32.
  EXPECT_LE((ours.to(d) - expected).abs().max().item<double>(),
            0x1p-7 * v.to(d).abs().max().item<double>());
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, FlashAttention,
    testing::Combine(testing::Values(Shape{1, 1, 1, 1, 32}, Shape{1, 2, 64, 256, 64},
                                     Shape{2, 3, 65, 257, 32}, Shape{1, 2, 63, 33, 128},
                                     Shape{1, 1, 300, 511, 96}, Shape{1, 1, 7, 1000, 512}),
                     testing::Values(at::kFloat, at::kBFloat16, at::kHalf)));

}  // namespace
}  // namespace steadyflux
