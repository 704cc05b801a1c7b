// Rotary embedding: the tables by the formula, the rotation as a rotation, and the two ways to
// apply it (one pass on the CPU, libtorch operators elsewhere) to the same bits.
#include "nn/rotary_embedding.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cmath>

namespace steadyflux {
namespace {

struct Shape {
  std::int64_t batch, seq_len, heads;
  std::vector<std::int64_t> axes_dims;

  std::int64_t head_dim() const {
    std::int64_t sum = 0;
    for (const auto dim : axes_dims) sum += dim;
    return sum;
  }
};

void PrintTo(const Shape& s, std::ostream* out) {
  *out << s.batch << "x" << s.seq_len << "x" << s.heads << "x" << s.head_dim();
}

RotaryEmbedding random_positions(const Shape& s) {
  const auto axes = static_cast<std::int64_t>(s.axes_dims.size());
  return make_rotary_embedding(at::randint(0, 200, {s.seq_len, axes}).to(at::kFloat), s.axes_dims);
}

class Rotary : public ::testing::TestWithParam<Shape> {
 protected:
  Rotary() { at::manual_seed(11); }
  const c10::InferenceMode inference_mode_;
};

TEST_P(Rotary, BothWaysGiveTheSameBits) {
  const auto& s = GetParam();
  const auto emb = random_positions(s);
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const auto x = (at::randn({s.batch, s.seq_len, s.heads, s.head_dim()}) * 3).to(dtype);
    auto one_pass = x.clone();
    // A tensor that is not contiguous goes through libtorch's operators, as on another device.
    auto operators = at::stack({x, x}, -1).select(-1, 0);
    ASSERT_FALSE(operators.is_contiguous());
    apply_rotary_emb_(one_pass, emb);
    apply_rotary_emb_(operators, emb);
    EXPECT_EQ(one_pass.scalar_type(), dtype);
    EXPECT_TRUE(at::equal(one_pass, operators)) << dtype;
    EXPECT_FALSE(at::equal(one_pass, x)) << dtype;
  }
}

TEST_P(Rotary, IsThePlaneRotationOfEachPair) {
  const auto& s = GetParam();
  const auto axes = static_cast<std::int64_t>(s.axes_dims.size());
  const auto ids = at::randint(0, 200, {s.seq_len, axes}).to(at::kFloat);
  const auto emb = make_rotary_embedding(ids, s.axes_dims);
  const auto x = at::randn({s.batch, s.seq_len, s.heads, s.head_dim()});
  auto rotated = x.clone();
  apply_rotary_emb_(rotated, emb);
  const auto in = x.accessor<float, 4>(), out = rotated.accessor<float, 4>();
  const auto position = ids.accessor<float, 2>();
  for (std::int64_t t = 0; t < s.seq_len; ++t) {
    std::int64_t first = 0;
    for (std::int64_t axis = 0; axis < axes; ++axis) {
      const auto dim = s.axes_dims[static_cast<std::size_t>(axis)];
      for (std::int64_t i = 0; i < dim; i += 2) {
        const double angle = position[t][axis] *
                             std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(dim));
        const double real = in[0][t][0][first + i], imag = in[0][t][0][first + i + 1];
        // Two products and a sum in fp32, factors rounded to fp32: 4 ulps of the length.
        const double bound = 4 * std::hypot(real, imag) * std::ldexp(1.0, -24);
        EXPECT_NEAR(out[0][t][0][first + i], real * std::cos(angle) - imag * std::sin(angle),
                    bound);
        EXPECT_NEAR(out[0][t][0][first + i + 1], imag * std::cos(angle) + real * std::sin(angle),
                    bound);
      }
      first += dim;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Rotary,
                         ::testing::Values(Shape{1, 1, 1, {2}}, Shape{1, 7, 3, {2, 4, 4}},
                                           Shape{2, 33, 5, {6, 2, 10}},
                                           Shape{1, 50, 24, {16, 56, 56}},
                                           Shape{3, 17, 1, {8, 14, 14}}));

TEST(RotaryEmbeddingTables, PositionZeroTurnsNothing) {
  const c10::InferenceMode inference_mode;
  const auto emb = make_rotary_embedding(at::zeros({3, 3}), {2, 4, 4});
  EXPECT_TRUE(at::equal(emb.cos, at::ones({3, 10})));
  EXPECT_TRUE(at::equal(emb.sin, at::zeros({3, 10})));
  auto x = at::randn({1, 3, 2, 10});
  const auto before = x.clone();
  apply_rotary_emb_(x, emb);
  EXPECT_TRUE(at::equal(x, before));
}

}  // namespace
}  // namespace steadyflux
