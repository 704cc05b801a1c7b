#include "nn/transpose_words.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace steadyflux {
namespace {

TEST(TransposeWords, PutsEveryWordInItsPlaceAndTouchesNoOther) {
  constexpr std::uint32_t kUntouched = 4000000000u;
  for (const std::int64_t rows : {0, 1, 15, 16, 17, 48, 70}) {
    for (const std::int64_t columns : {0, 1, 16, 31, 32, 33}) {
      const auto from_stride = columns + 3, to_stride = rows + 5;
      std::vector<std::uint32_t> from(static_cast<std::size_t>(rows * from_stride));
      std::iota(from.begin(), from.end(), 1u);
      std::vector<std::uint32_t> to(static_cast<std::size_t>(columns * to_stride), kUntouched);
      transpose_words(from.data(), from_stride, rows, columns, to.data(), to_stride);
      for (std::int64_t j = 0; j < columns; ++j) {
        for (std::int64_t i = 0; i < to_stride; ++i) {
          const auto found = to[static_cast<std::size_t>(j * to_stride + i)];
          const auto expected =
              i < rows ? from[static_cast<std::size_t>(i * from_stride + j)] : kUntouched;
          ASSERT_EQ(found, expected) << rows << " x " << columns << " at " << i << ", " << j;
        }
      }
    }
  }
}

}  // namespace
}  // namespace steadyflux
