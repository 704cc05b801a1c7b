// Matrices of 32-bit words turned over, as the packed operands of CPU products want them.
#pragma once

#include <cstdint>

namespace steadyflux {

// 32 bits of whatever lies there, such as a pair of bf16 numbers or four of 8 bits.
using Word __attribute__((may_alias)) = std::uint32_t;

// to[j * to_stride + i] = from[i * from_stride + j] for i < rows, j < columns. Strides in words.
void transpose_words(const Word* from, std::int64_t from_stride, std::int64_t rows,
                     std::int64_t columns, Word* to, std::int64_t to_stride);

}  // namespace steadyflux
