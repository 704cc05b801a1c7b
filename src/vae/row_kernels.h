// GroupNorm's work on rows of pixels on the CPU, in one pass each: normalise with SiLU, and store
// with sums. Every value is computed by the same instructions wherever it lies, and every row's
// sums by one thread, so that results depend neither on how rows are cut nor on the number of
// threads.
#pragma once

#include <ATen/core/Tensor.h>

namespace steadyflux {

// out = in * scale + shift, rounded to the tensors' dtype, and then SiLU of that, if wanted.
// in, out [n, W, C] contiguous, not overlapping; scale, shift [C] fp32.
void normalise_rows_cpu(const at::Tensor& in, const at::Tensor& scale, const at::Tensor& shift,
                        bool silu, const at::Tensor& out);

// out = in, or out += in; `sums` gets, for each row and group of channels, the sum of what was
// stored and the sum of its squares: [n][groups][2]. Sums of 8 values are taken in fp32, those of
// these in fp64.
void store_rows_cpu(const at::Tensor& in, bool add, std::int64_t groups, const at::Tensor& out,
                    double* sums);

}  // namespace steadyflux
