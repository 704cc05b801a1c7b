// Long sequences go through wide layers chunk by chunk. Where the cuts are depends on the length
// alone, never on a memory plan: results must not depend on plans. Written once, for those who
// compute (src/transformer) and those who foretell what it takes (src/memory).
#pragma once

#include <algorithm>
#include <cstdint>

namespace steadyflux {

// Rows of a chunk: as equal as can be, none above `most`, multiples of 16.
inline std::int64_t row_chunk_size(std::int64_t rows, std::int64_t most) {
  const auto chunks = (rows + most - 1) / most;
  const auto size = chunks > 0 ? (rows + chunks - 1) / chunks : rows;
  return std::max<std::int64_t>((size + 15) / 16 * 16, 1);
}

// body(begin, count) for every chunk.
template <typename Body>
void for_row_chunks(std::int64_t rows, std::int64_t most, Body body) {
  const auto size = row_chunk_size(rows, most);
  for (std::int64_t begin = 0; begin < rows; begin += size) {
    body(begin, std::min(size, rows - begin));
  }
}

constexpr std::int64_t kGemmRows = 2048;    // enough rows for a GEMM at full speed
constexpr std::int64_t kElementRows = 512;  // what is done element by element, with fp32 between

// Steps whose modulations are computed at once: fewer would mean reading the weights too often,
// more gain nothing.
constexpr std::int64_t kLeastModulationRows = 4;
constexpr std::int64_t kMostModulationRows = 128;
// Rows of a GEMM of modulations are a multiple of this. One row alone rounds differently, and so
// does in fp32 what is left over from groups of four, and on some processors with AVX-512 (MKL)
// also 4, 8 and 12 rows.
constexpr std::int64_t kModulationRowGroup = 16;

// Rows that are computed for `rows` of modulations, so that no chunk has too few.
inline std::int64_t modulation_gemm_rows(std::int64_t rows) {
  constexpr auto kGroup = kModulationRowGroup;
  return (std::max<std::int64_t>(rows, 1) + kGroup - 1) / kGroup * kGroup;
}

}  // namespace steadyflux
