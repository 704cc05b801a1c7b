// Weights from the file's dtype to the one computed with, by the calling thread alone: a thread
// that loads must not take the cores from those that compute.
#pragma once

#include <ATen/core/Tensor.h>

namespace steadyflux {

// to = from, rounded to nearest even. Both contiguous on the CPU, of equal numbers of elements and
// of floating-point dtypes.
void convert_values(const at::Tensor& from, const at::Tensor& to);

}  // namespace steadyflux
