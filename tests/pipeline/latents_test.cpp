// Packing and noise: packing is undone by unpacking, and the noise is diffusers' own.
#include "pipeline/latents.h"

#include <ATen/ATen.h>

#include "golden_file.h"

namespace steadyflux {
namespace {

TEST(Latents, UnpackAfterPackIsTheIdentity) {
  for (const auto& [height, width] : {std::pair{2, 2}, {4, 10}, {14, 6}}) {
    const auto x = at::arange(2 * 16 * height * width, at::kFloat).view({2, 16, height, width});
    const auto packed = pack_latents(x);
    ASSERT_EQ(packed.sizes(), (std::vector<std::int64_t>{2, height * width / 4, 64}));
    EXPECT_TRUE(at::equal(unpack_latents(packed, height, width), x));
  }
}

// Token (row, column) holds (channel, row in patch, column in patch), the last fastest.
TEST(Latents, ChannelOrderOfAToken) {
  const auto x = at::arange(2 * 4 * 4, at::kFloat).view({1, 2, 4, 4});
  const auto token = pack_latents(x)[0][1];  // row 0, column 1 of patches
  EXPECT_TRUE(at::equal(token, at::tensor({2, 3, 6, 7, 18, 19, 22, 23}).to(at::kFloat)));
}

// Seeds and sizes of the goldens' manifest.json; one seed is above 2^32.
TEST(Latents, NoiseIsThatOfDiffusersBitForBit) {
  for (const auto& run : testing::kRuns) {
    EXPECT_TRUE(at::equal(prepare_latents(16, 4, 6, 42, run.dtype),
                          testing::Goldens("a").tensor(run.name + ".noise")))
        << run.name;
    EXPECT_TRUE(at::equal(prepare_latents(16, 8, 4, (std::uint64_t{1} << 33) + 5, run.dtype),
                          testing::Goldens("b").tensor(run.name + ".noise")))
        << run.name;
  }
}

// Up to 2^64 - 1 a seed is a seed of its own; only the sum of seed and picture number wraps.
TEST(Latents, LargeSeedsDiffer) {
  const auto largest = prepare_latents(16, 4, 4, ~std::uint64_t{0}, at::kFloat);
  EXPECT_TRUE(at::equal(largest, prepare_latents(16, 4, 4, ~std::uint64_t{0}, at::kFloat)));
  EXPECT_FALSE(at::equal(largest, prepare_latents(16, 4, 4, 42, at::kFloat)));
}

}  // namespace
}  // namespace steadyflux
