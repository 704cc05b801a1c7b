// Matrix products, convolutions and attention as libtorch has them, but quick on every processor.
// libtorch multiplies 16-bit numbers on a CPU without instructions for them in loops some fifty
// times slower than in fp32. There, and only there, these convert to fp32, multiply, and round the
// result once: what an instruction for 16-bit numbers does too, piece by piece, so that little
// memory is taken (config/widened.h).
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace steadyflux {

// Whether products of this tensor are made in fp32.
bool is_widened(const at::Tensor& x);

namespace products {

// x W^T + b: x [..., in], weight [out, in], bias [out] or undefined.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {});

// x [B, C, H, W]; stride and padding as (rows, columns).
at::Tensor conv2d(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                  at::IntArrayRef stride, at::IntArrayRef padding);

at::Tensor matmul(const at::Tensor& a, const at::Tensor& b);

// softmax(q k^T * scale + mask) v, all [B, heads, S, head_dim]; mask broadcastable to
// [B, heads, S, S] or undefined.
at::Tensor scaled_dot_product_attention(const at::Tensor& q, const at::Tensor& k,
                                        const at::Tensor& v, const at::Tensor& mask, bool is_causal,
                                        std::optional<double> scale);

}  // namespace products

// The ways through fp32, on every processor; tests call them.
namespace widened {
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);
at::Tensor conv2d(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                  at::IntArrayRef stride, at::IntArrayRef padding);
at::Tensor scaled_dot_product_attention(const at::Tensor& q, const at::Tensor& k,
                                        const at::Tensor& v, const at::Tensor& mask, bool is_causal,
                                        std::optional<double> scale);
}  // namespace widened

}  // namespace steadyflux
