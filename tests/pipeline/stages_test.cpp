// The sizes that progressive pictures go through, and the request that each stage is.
#include "pipeline/stages.h"

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "image/resample.h"

namespace steadyflux {
namespace {

using Sides = std::vector<std::pair<std::int64_t, std::int64_t>>;

Request progressive(std::int64_t width, std::int64_t height, std::int64_t base) {
  return {.prompt = "x", .width = width, .height = height, .progressive = Progressive{base, 0.5}};
}

Sides sides(const Request& request) {
  Sides result;
  for (const auto& size : stage_sizes(request, 16)) result.emplace_back(size.width, size.height);
  return result;
}

TEST(StageSizes, OneWithoutStages) {
  EXPECT_EQ(sides({.prompt = "x", .width = 1024, .height = 512}), (Sides{{1024, 512}}));
}

TEST(StageSizes, DoubleUpToThePicture) {
  EXPECT_EQ(sides(progressive(2048, 2048, 512)), (Sides{{512, 512}, {1024, 1024}, {2048, 2048}}));
  EXPECT_EQ(sides(progressive(1600, 1600, 512)), (Sides{{512, 512}, {1024, 1024}, {1600, 1600}}));
}

TEST(StageSizes, KeepTheShapeAsFarAsMultiplesAllow) {
  EXPECT_EQ(sides(progressive(1920, 1072, 512)), (Sides{{512, 288}, {1024, 576}, {1920, 1072}}));
  EXPECT_EQ(sides(progressive(1072, 1920, 512)), (Sides{{288, 512}, {576, 1024}, {1072, 1920}}));
}

TEST(StageSizes, NoneForALittleMore) {
  EXPECT_EQ(sides(progressive(640, 640, 512)), (Sides{{640, 640}}));  // 1.25 times the base
  EXPECT_EQ(sides(progressive(656, 656, 512)), (Sides{{512, 512}, {656, 656}}));
  EXPECT_EQ(sides(progressive(1280, 1280, 512)), (Sides{{512, 512}, {1280, 1280}}));
  EXPECT_EQ(sides(progressive(256, 256, 512)), (Sides{{256, 256}}));
}

// What stops at a stage repeats as a request for that size.
TEST(StageSizes, OfASmallerGoalAreTheFirstOfThose) {
  for (std::int64_t goal = 656; goal <= 4096; goal += 16) {
    const auto all = sides(progressive(goal, goal, 512));
    for (std::size_t i = 1; i < all.size(); ++i) {
      const auto shorter = sides(progressive(all[i].first, all[i].second, 512));
      EXPECT_EQ(shorter, Sides(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(i) + 1));
      EXPECT_LE(all[i].first, 5 * all[i - 1].first / 2);
    }
  }
}

TEST(StageRequest, BeginsFromThePictureBefore) {
  const auto request = progressive(64, 64, 32);
  const auto first = stage_request(request, {32, 32}, nullptr);
  EXPECT_EQ(first.width, 32);
  EXPECT_FALSE(first.init_image);
  EXPECT_FALSE(first.progressive);

  auto before = std::make_shared<Image>(Image{32, 32, {}});
  for (int i = 0; i < 32 * 32 * 3; ++i) before->rgb.push_back(static_cast<std::uint8_t>(i * 7));
  const auto second = stage_request(request, {64, 64}, before);
  EXPECT_EQ(second.width, 64);
  EXPECT_FALSE(second.progressive);
  ASSERT_TRUE(second.init_image);
  EXPECT_EQ(second.init_image->strength, 0.5);
  EXPECT_EQ(second.init_image->load().image.rgb, resample_lanczos(*before, 64, 64).rgb);
}

TEST(LastStage, HasWhatAPlanNeeds) {
  const auto last = last_stage(progressive(2048, 1024, 512), 16);
  EXPECT_EQ(last.width, 2048);
  EXPECT_EQ(last.height, 1024);
  ASSERT_TRUE(last.init_image);
  // 1024 x 512, 2048 x 512 and 2048 x 1024 pixels.
  EXPECT_EQ(last.init_image->load_bytes, 3 * (1024 * 512 + 2048 * 512 + 2048 * 1024));
  EXPECT_FALSE(last_stage({.prompt = "x"}, 16).init_image);
}

TEST(CanBeMadeTogether, WithTheSameLorasAndStages) {
  const Request plain{.prompt = "x", .width = 64};
  EXPECT_TRUE(can_be_made_together(plain, {.prompt = "y", .width = 128}));
  EXPECT_FALSE(can_be_made_together(plain, {.prompt = "y", .loras = {{"a.safetensors", 1}}}));
  EXPECT_FALSE(can_be_made_together(plain, progressive(64, 64, 32)));
  EXPECT_TRUE(can_be_made_together(progressive(64, 64, 32), progressive(64, 64, 32)));
  EXPECT_FALSE(can_be_made_together(progressive(64, 64, 32), progressive(64, 128, 32)));
}

}  // namespace
}  // namespace steadyflux
