// Attention in bf16 at GEMM speed on CPUs with AVX-512 BF16. libtorch's own kernel runs its inner
// products through a slow path there; this one gives them to oneDNN's batch-reduce GEMM.
#pragma once

#include <ATen/core/Tensor.h>

namespace steadyflux {

// Whether flash_attention_cpu can take these: bf16 on a CPU with AVX-512 BF16, the last dimension
// of q, k and v contiguous and a multiple of 32; the bias, if there is one, of their batch or 1,
// with its last dimension contiguous.
bool flash_attention_cpu_usable(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                const at::Tensor& bias = {});

// softmax(q k^T * scale + bias) v, scale > 0. q, k, v [B, heads, S, head_dim], bias finite,
// [B or 1, heads, S, S] -> [B, S, heads * head_dim].
// Scores, sums and the output are accumulated in fp32; probabilities are rounded to bf16 for the
// second product, as in libtorch's kernel. The result does not depend on the number of threads.
at::Tensor flash_attention_cpu(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               double scale, const at::Tensor& bias = {});

}  // namespace steadyflux
