// Linear layers in 8-bit integers on the CPU (W8A8): each row of x is rounded to 256 steps between
// its least and its largest value, each row of the weight to 255 steps around 0; integers are
// multiplied and added up exactly, and the sums go back through both scales, in fp32, with the
// bias. The product of blocks is libtorch's, where the processor multiplies 8-bit integers
// (AVX-512 VNNI, AMX), and a loop elsewhere: bits are the same.
#pragma once

#include <ATen/core/Tensor.h>

namespace steadyflux {

// Whether this processor has instructions for products of 8-bit integers.
bool cpu_multiplies_int8();

// x W^T + b: x [..., in] (the last dimension contiguous), weight [out, in], bias [out] or
// undefined, all fp32, bf16 or fp16 and of one dtype, which the result has too. `in` is a multiple
// of 4 and at most 32768 (config/int8_linear.h). What is not finite in a row of x or of the weight
// gives NaN in what is made of it.
at::Tensor int8_linear_cpu(const at::Tensor& x, const at::Tensor& weight,
                           const at::Tensor& bias = {});

// The same with the loop, on every processor; tests compare.
at::Tensor int8_linear_by_loop(const at::Tensor& x, const at::Tensor& weight,
                               const at::Tensor& bias = {});

// Rows of x [rows, in] in 8 bits: x[i][k] is about scale[i] * (values[i][k] - zero[i]).
struct Int8Rows {
  at::Tensor values;  // [rows, in], uint8
  at::Tensor scale;   // [rows], fp32
  at::Tensor zero;    // [rows], int32, 0 to 255
};
Int8Rows int8_rows(const at::Tensor& x);

}  // namespace steadyflux
