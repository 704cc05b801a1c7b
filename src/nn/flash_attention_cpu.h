// Attention in bf16 at GEMM speed on CPUs with AVX-512 BF16. libtorch's own kernel runs its inner
// products through a slow path there; this one gives them to oneDNN's batch-reduce GEMM.
#pragma once

#include <ATen/core/Tensor.h>

namespace steadyflux {

// Whether flash_attention_cpu can take these: bf16 on a CPU with AVX-512 BF16, no mask, the last
// dimension contiguous and a multiple of 32.
bool flash_attention_cpu_usable(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

// softmax(q k^T * scale) v, scale > 0. q, k, v [B, heads, S, head_dim] -> [B, S, heads * head_dim].
// Scores, sums and the output are accumulated in fp32; probabilities are rounded to bf16 for the
// second product, as in libtorch's kernel. The result does not depend on the number of threads.
at::Tensor flash_attention_cpu(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               double scale);

}  // namespace steadyflux
