// Attention at GEMM speed on the CPU: blocks of queries and keys go through libtorch's batch-reduce
// GEMM, softmax in between. Products are in bf16 where values are and the CPU has AVX-512 BF16
// (libtorch's own kernel takes a slow path there), else in fp32, whatever dtype values have: they
// are widened as they are packed.
#pragma once

#include <ATen/core/Tensor.h>

namespace steadyflux {

// Whether flash_attention_cpu can take these: on a CPU with AVX2, fp32, bf16 or fp16 (but for fp16
// where the CPU multiplies that), the last dimension contiguous and a multiple of 32, for products
// in fp32 at most 256.
bool flash_attention_cpu_usable(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

// softmax(q k^T * scale) v. q, k, v [B, heads, S, head_dim] -> [B, S, heads * head_dim].
// Scores, sums and the output are accumulated in fp32 and rounded once; with products in bf16
// probabilities are rounded for the second one, as in libtorch's kernel. The result does not depend
// on the number of threads.
at::Tensor flash_attention_cpu(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               double scale);

}  // namespace steadyflux
