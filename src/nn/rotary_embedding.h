// Rotary position embedding as FLUX uses it: interleaved pairs, one group of pairs per axis
// (text/row/column), angles in fp64, rotation in fp32.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace steadyflux {

struct RotaryEmbedding {
  at::Tensor cos;  // [S, head_dim], fp32, each value twice (once per member of a pair)
  at::Tensor sin;  // [S, head_dim], fp32
};

// ids [S, axes] (fp32 positions) -> tables on the ids' device. sum(axes_dims) == head_dim.
RotaryEmbedding make_rotary_embedding(const at::Tensor& ids,
                                      const std::vector<std::int64_t>& axes_dims,
                                      double theta = 10000.0);

// Rotates x [B, S, heads, head_dim] in place by the rows of `emb`. On the CPU one pass over
// memory; elsewhere with libtorch operators. Both round as diffusers' apply_rotary_emb does.
void apply_rotary_emb_(at::Tensor& x, const RotaryEmbedding& emb);

}  // namespace steadyflux
