// True classifier-free guidance, by numbers: the formula, its rounding, and whose prediction is
// whose.
#include "pipeline/guidance.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <array>
#include <filesystem>

namespace steadyflux {
namespace {

TEST(TrueCfg, GoesAwayFromTheNegativePrompt) {
  const auto positive = at::tensor({1.0f, -2.0f, 0.5f}), negative = at::tensor({0.5f, 2.0f, 0.5f});
  EXPECT_TRUE(at::equal(true_cfg(positive, negative, 3), at::tensor({2.0f, -10.0f, 0.5f})));
}

// In bf16 every operation is rounded, as in Python: torch gives 12.125; rounded at the end alone it
// would be 12.1875.
TEST(TrueCfg, RoundsEveryOperation) {
  const auto of = [](double value) { return at::full({1}, value, at::kBFloat16); };
  const auto found = true_cfg(of(4.625), of(-0.29296875), 2.54);
  EXPECT_EQ(found.scalar_type(), at::kBFloat16);
  EXPECT_EQ(found.item<float>(), 12.125f);
}

TEST(Guided, PicturesWithAndWithoutANegativePromptMayAlternate) {
  const auto source = std::filesystem::path(STEADYFLUX_SOURCE_DIR);
  const auto model = FluxModel::open(source / "tests/goldens/b/model");
  std::vector<Request> requests(3, {.prompt = "x", .width = 48, .height = 32});
  for (const std::size_t i : {std::size_t{0}, std::size_t{2}}) {
    requests[i].negative_prompt = std::string("y");
    requests[i].true_cfg_scale = 2.0 + static_cast<double>(i);
  }
  const auto chunk = make_chunk(model, requests);
  const auto of = [](double value) { return at::full({1}, value); };
  const std::array<std::size_t, 3> all = {0, 1, 2};
  const auto velocities = guided(chunk, all, {of(1), of(2), of(3), of(5), of(4)});
  ASSERT_EQ(velocities.size(), 3u);
  EXPECT_EQ(velocities[0].item<float>(), 2 + 2 * (1 - 2));
  EXPECT_EQ(velocities[1].item<float>(), 3);
  EXPECT_EQ(velocities[2].item<float>(), 4 + 4 * (5 - 4));
  const std::array<std::size_t, 2> some = {1, 2};
  EXPECT_EQ(guided(chunk, some, {of(3), of(5), of(4)})[1].item<float>(), 8);
}

}  // namespace
}  // namespace steadyflux
