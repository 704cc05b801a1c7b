// Matrices of 32-bit words turned over, as the packed operands of CPU products want them.
#pragma once

#include <cstdint>

namespace steadyflux {

// to[j * to_stride + i] = from[i * from_stride + j] for i < rows, j < columns. Strides in words.
void transpose_words(const std::uint32_t* from, std::int64_t from_stride, std::int64_t rows,
                     std::int64_t columns, std::uint32_t* to, std::int64_t to_stride);

}  // namespace steadyflux
