#include "nn/products.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "base/cpu.h"
#include "config/widened.h"
#include "nn/output_parts.h"

namespace steadyflux {
namespace {

at::Tensor wide(const at::Tensor& x) { return x.defined() ? x.to(at::kFloat) : x; }

}  // namespace

bool is_widened(const at::Tensor& x) {
  if (!x.device().is_cpu()) return false;
  if (x.scalar_type() == at::kBFloat16) return !cpu_multiplies_bf16();
  return x.scalar_type() == at::kHalf && !cpu_multiplies_fp16();
}

namespace products {

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (is_widened(x)) return widened::linear(x, weight, bias);
  return at::linear(x, weight, if_defined(bias));
}

at::Tensor conv2d(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                  at::IntArrayRef stride, at::IntArrayRef padding) {
  if (is_widened(x)) return widened::conv2d(x, weight, bias, stride, padding);
  return at::conv2d(x, weight, if_defined(bias), stride, padding);
}

at::Tensor matmul(const at::Tensor& a, const at::Tensor& b) {
  return is_widened(a) ? at::matmul(wide(a), wide(b)).to(a.scalar_type()) : at::matmul(a, b);
}

at::Tensor scaled_dot_product_attention(const at::Tensor& q, const at::Tensor& k,
                                        const at::Tensor& v, const at::Tensor& mask, bool is_causal,
                                        std::optional<double> scale) {
  if (is_widened(q)) {
    return widened::scaled_dot_product_attention(q, k, v, mask, is_causal, scale);
  }
  return at::scaled_dot_product_attention(q, k, v, if_defined(mask), /*dropout_p=*/0.0, is_causal,
                                          scale);
}

}  // namespace products

namespace widened {

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const auto rows = wide(x.reshape({-1, weight.size(1)}));
  return by_outputs(x, weight, bias, [&](const at::Tensor& part, const at::Tensor& part_bias) {
    return at::linear(rows, wide(part), if_defined(wide(part_bias)));
  });
}

at::Tensor conv2d(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                  at::IntArrayRef stride, at::IntArrayRef padding) {
  return at::conv2d(wide(x), wide(weight), if_defined(wide(bias)), stride, padding)
      .to(x.scalar_type());
}

at::Tensor scaled_dot_product_attention(const at::Tensor& q, const at::Tensor& k,
                                        const at::Tensor& v, const at::Tensor& mask, bool is_causal,
                                        std::optional<double> scale) {
  const auto heads = q.size(1);
  // As libtorch's kernels leave it: the heads of a position side by side.
  auto result = at::empty({q.size(0), q.size(2), heads, v.size(3)}, q.options()).transpose(1, 2);
  const auto step = widened_heads(heads, q.size(0) * q.size(2), q.size(0) * k.size(2), q.size(3));
  const bool by_head = mask.defined() && mask.dim() >= 3 && mask.size(-3) > 1;
  for (std::int64_t first = 0; first < heads; first += step) {
    const auto count = std::min(step, heads - first);
    const auto part = [&](const at::Tensor& t) { return wide(t.narrow(1, first, count)); };
    auto added = by_head ? mask.narrow(-3, first, count) : mask;
    if (added.defined() && added.scalar_type() != at::kBool) added = wide(added);
    result.narrow(1, first, count)
        .copy_(at::scaled_dot_product_attention(part(q), part(k), part(v), if_defined(added),
                                                /*dropout_p=*/0.0, is_causal, scale));
  }
  return result;
}

}  // namespace widened

}  // namespace steadyflux
