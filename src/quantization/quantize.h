// Packs fp32 weights: what a conversion of a model file calls. Scales are searched for so that the
// sum of squared errors over a block is small: smaller than what GGML's own quantisers leave
// without an importance matrix (tests/quantization/quantize_test.cpp has the numbers).
#pragma once

#include <cstddef>
#include <cstdint>

#include "quantization/dtype.h"

namespace steadyflux {

// Can `quantize` make blocks of this type? Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K.
bool can_quantize(DType type);

// `count` values, a multiple of item_values(type), become count / item_values(type) blocks of
// item_size(type) bytes. Rows of a matrix whose length is such a multiple can be passed together.
// NaN counts as 0; what lies beyond +-1e9, as those. From any thread. Throws Error{kInternal} for
// other types and counts.
void quantize(DType type, const float* values, std::int64_t count, std::byte* to);

// e4m3fn with one scale for a tensor. The scale makes the largest finite magnitude 448, the largest
// such a number can hold; 1 for a tensor of zeros.
float float8_e4m3_scale(const float* values, std::int64_t count);
// to[i] = values[i] / scale, rounded to nearest even; what is beyond 448 becomes that; NaN stays
// NaN.
void quantize_float8_e4m3(const float* values, std::int64_t count, float scale, std::byte* to);

}  // namespace steadyflux
