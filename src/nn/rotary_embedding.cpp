#include "nn/rotary_embedding.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

namespace steadyflux {
namespace {

template <typename Scalar>
void rotate_rows(Scalar* x, const float* cos, const float* sin, std::int64_t begin,
                 std::int64_t end, std::int64_t seq_len, std::int64_t heads,
                 std::int64_t head_dim) {
  for (std::int64_t row = begin; row < end; ++row) {  // row = b * seq_len + s
    const float* c = cos + (row % seq_len) * head_dim;
    const float* s = sin + (row % seq_len) * head_dim;
    for (std::int64_t head = 0; head < heads; ++head) {
      Scalar* p = x + (row * heads + head) * head_dim;
      for (std::int64_t i = 0; i < head_dim; i += 2) {
        const auto real = static_cast<float>(p[i]);
        const auto imag = static_cast<float>(p[i + 1]);
        p[i] = static_cast<Scalar>(real * c[i] - imag * s[i]);
        p[i + 1] = static_cast<Scalar>(imag * c[i + 1] + real * s[i + 1]);
      }
    }
  }
}

}  // namespace

RotaryEmbedding make_rotary_embedding(const at::Tensor& ids,
                                      const std::vector<std::int64_t>& axes_dims, double theta) {
  // fp64 is not there on every device, so the tables are made on the CPU: they are small.
  const auto positions = ids.to(at::kCPU, at::kDouble);
  std::vector<at::Tensor> cos_parts, sin_parts;
  for (std::size_t axis = 0; axis < axes_dims.size(); ++axis) {
    const auto dim = axes_dims[axis];
    const auto exponents = at::arange(0, dim, 2, at::kDouble) / static_cast<double>(dim);
    const auto freqs = at::pow(at::scalar_tensor(theta, at::kDouble), exponents).reciprocal();
    const auto angles = at::outer(positions.select(1, static_cast<std::int64_t>(axis)), freqs);
    cos_parts.push_back(angles.cos().repeat_interleave(2, 1).to(at::kFloat));
    sin_parts.push_back(angles.sin().repeat_interleave(2, 1).to(at::kFloat));
  }
  return {at::cat(cos_parts, 1).to(ids.device()), at::cat(sin_parts, 1).to(ids.device())};
}

void apply_rotary_emb_(at::Tensor& x, const RotaryEmbedding& emb) {
  if (x.device().is_cpu() && x.is_contiguous()) {
    const auto seq_len = x.size(1), heads = x.size(2), head_dim = x.size(3);
    const auto* cos = emb.cos.const_data_ptr<float>();
    const auto* sin = emb.sin.const_data_ptr<float>();
    AT_DISPATCH_FLOATING_TYPES_AND2(
        at::kHalf, at::kBFloat16, x.scalar_type(), "apply_rotary_emb", [&] {
          auto* data = x.mutable_data_ptr<scalar_t>();
          at::parallel_for(0, x.size(0) * seq_len, 16, [&](std::int64_t begin, std::int64_t end) {
            rotate_rows(data, cos, sin, begin, end, seq_len, heads, head_dim);
          });
        });
    return;
  }
  const auto cos = emb.cos.unsqueeze(0).unsqueeze(2);  // [1, S, 1, head_dim]
  const auto sin = emb.sin.unsqueeze(0).unsqueeze(2);
  const auto pairs = x.unflatten(-1, {-1, 2});
  const auto rotated = at::stack({-pairs.select(-1, 1), pairs.select(-1, 0)}, -1).flatten(3);
  x.copy_((x.to(at::kFloat) * cos).add_(rotated.to(at::kFloat) * sin));
}

}  // namespace steadyflux
