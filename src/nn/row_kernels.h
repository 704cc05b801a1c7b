// What blocks do value by value between their products, on the CPU in one pass over
// memory each. Every result is rounded where the operators would round it that are named in the
// comments; sums over a row are taken in another order. A row's result depends on that row alone,
// not on how rows are cut or on the number of threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "nn/rotary_embedding.h"

namespace steadyflux {

// Whether these can work on `rows` [n, dim]: on the CPU, fp32, bf16 or fp16, values of a row side
// by side. All tensors of a call but the tables of RotaryEmbedding have its dtype; vectors [dim]
// are contiguous.
bool has_row_kernels(const at::Tensor& rows);

// layer_norm(x) * (scale + 1) + shift: x [n, dim] -> [n, dim].
at::Tensor modulated_layer_norm_cpu(const at::Tensor& x, const at::Tensor& shift,
                                    const at::Tensor& scale, double eps);

// residual += gate * x; residual, x [n, dim], gate [dim].
void add_gated_cpu_(const at::Tensor& residual, const at::Tensor& x, const at::Tensor& gate);

// rms_norm(x) in fp32, rounded, times weight [dim]: x [n, dim] -> [n, dim]. T5's LayerNorm.
at::Tensor rms_norm_cpu(const at::Tensor& x, const at::Tensor& weight, double eps);

// out = gelu(x) with tanh, in one operation; both [n, dim], and may be the same.
void gelu_cpu(const at::Tensor& x, const at::Tensor& out);

// gate = gelu(gate) * up; both [n, dim]. The GELU is that with tanh: in one operation, or as eight
// of them (transformers' "gelu_new").
enum class TanhGelu : std::uint8_t { kOneOperation, kEightOperations };
void gated_gelu_cpu_(const at::Tensor& gate, const at::Tensor& up, TanhGelu gelu);

// out = rms_norm(x) per head, times weight [head_dim], rotated by the rows of `emb`: x [n, heads *
// head_dim] -> out [n, heads, head_dim], contiguous.
void normed_and_rotated_cpu(const at::Tensor& x, const at::Tensor& weight, double eps,
                            const RotaryEmbedding& emb, const at::Tensor& out);

}  // namespace steadyflux
