#include "nn/transpose_words.h"

#include <algorithm>

#include "nn/vector_loops.h"

#ifdef STEADYFLUX_X86
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wuninitialized"  // g++ 12's own intrinsics: _mm512_undefined_ps
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#endif

namespace steadyflux {
namespace {

constexpr std::int64_t kSide = 16;

void transpose_one_by_one(const Word* from, std::int64_t from_stride, std::int64_t rows,
                          std::int64_t columns, Word* to, std::int64_t to_stride) {
  for (std::int64_t j = 0; j < columns; ++j) {
    for (std::int64_t i = 0; i < rows; ++i) to[j * to_stride + i] = from[i * from_stride + j];
  }
}

#ifdef STEADYFLUX_X86
bool has_avx512() {
  static const bool has = __builtin_cpu_supports("avx512f") != 0;
  return has;
}

// 16 x 16 words. Rows are interleaved with their neighbours, then with those two further, so that
// quarters of registers hold four rows' words of one column; two rounds put quarters in place.
__attribute__((target("avx512f"))) void transpose_square(const Word* from, std::int64_t from_stride,
                                                         Word* to, std::int64_t to_stride) {
  __m512i a[kSide], b[kSide];
  for (int i = 0; i < kSide; ++i) a[i] = _mm512_loadu_si512(from + i * from_stride);
  for (int i = 0; i < kSide; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  for (int i = 0; i < kSide; i += 4) {
    for (int half = 0; half < 2; ++half) {
      a[i + 2 * half] = _mm512_unpacklo_epi64(b[i + half], b[i + 2 + half]);
      a[i + 2 * half + 1] = _mm512_unpackhi_epi64(b[i + half], b[i + 2 + half]);
    }
  }
  constexpr int kEven = 0x88, kOdd = 0xdd;  // quarters 0 and 2, or 1 and 3, of each operand
  for (int i = 0; i < 4; ++i) {
    for (int half = 0; half < 2; ++half) {
      b[i + 8 * half] = _mm512_shuffle_i32x4(a[i + 8 * half], a[i + 8 * half + 4], kEven);
      b[i + 8 * half + 4] = _mm512_shuffle_i32x4(a[i + 8 * half], a[i + 8 * half + 4], kOdd);
    }
  }
  for (int i = 0; i < 8; ++i) {
    _mm512_storeu_si512(to + i * to_stride, _mm512_shuffle_i32x4(b[i], b[i + 8], kEven));
    _mm512_storeu_si512(to + (i + 8) * to_stride, _mm512_shuffle_i32x4(b[i], b[i + 8], kOdd));
  }
}
#endif

}  // namespace

void transpose_words(const Word* from, std::int64_t from_stride, std::int64_t rows,
                     std::int64_t columns, Word* to, std::int64_t to_stride) {
  if (rows == 0 || columns == 0) return;
#ifdef STEADYFLUX_X86
  if (has_avx512()) {
    const auto whole_rows = rows / kSide * kSide, whole_columns = columns / kSide * kSide;
    for (std::int64_t i = 0; i < whole_rows; i += kSide) {
      for (std::int64_t j = 0; j < whole_columns; j += kSide) {
        transpose_square(from + i * from_stride + j, from_stride, to + j * to_stride + i,
                         to_stride);
      }
    }
    transpose_one_by_one(from + whole_columns, from_stride, whole_rows, columns - whole_columns,
                         to + whole_columns * to_stride, to_stride);
    transpose_one_by_one(from + whole_rows * from_stride, from_stride, rows - whole_rows, columns,
                         to + whole_rows, to_stride);
    return;
  }
#endif
  transpose_one_by_one(from, from_stride, rows, columns, to, to_stride);
}

}  // namespace steadyflux
