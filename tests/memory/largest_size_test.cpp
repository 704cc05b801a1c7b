#include "memory/largest_size.h"

#include <gtest/gtest.h>

#include <random>

namespace steadyflux {
namespace {

constexpr std::int64_t kGiB = std::int64_t{1} << 30;

TEST(SidesOf, KeepTheShapeInMultiples) {
  EXPECT_EQ(sides_of({16, 9}, 1920, 16).height, 1088);  // 1080 is none
  EXPECT_EQ(sides_of({9, 16}, 1920, 16).width, 1088);
  EXPECT_EQ(sides_of({1, 1}, 512, 16).height, 512);
  EXPECT_EQ(sides_of({64, 1}, 32, 16).height, 16);
}

TEST(SidesOf, AnArea) {
  const auto square = sides_of_area({1, 1}, 1024.0 * 1024.0, 16);
  EXPECT_EQ(square.width, 1024);
  EXPECT_EQ(square.height, 1024);
  const auto wide = sides_of_area({16, 9}, 1024.0 * 1024.0, 16);
  EXPECT_EQ(wide.width, 1360);
  EXPECT_EQ(wide.height, 768);
}

// At random budgets, with and without a device: what is found fits, the next larger does not.
TEST(LargestSize, FitsAndTheNextDoesNot) {
  const FluxModel model;
  std::mt19937_64 random(7);
  int found = 0;
  for (int i = 0; i < 40; ++i) {
    Budget budget;
    budget.has_device = i % 2 == 0;
    const auto between = [&](double low, double high) {
      return static_cast<std::int64_t>(std::uniform_real_distribution(low, high)(random) * kGiB);
    };
    budget.vram = budget.has_device ? between(1, 12) : 0;
    budget.ram = between(1, 24);
    const Aspect aspect{std::int64_t{1} + i % 7, std::int64_t{1} + i % 3};
    const auto sides = largest_size(model, Workload{}, budget, {}, aspect);
    const auto fits = [&](const PictureSides& size) {
      Workload work;
      work.width = size.width;
      work.height = size.height;
      return make_plan(model, work, budget, {}).fits;
    };
    if (!sides) {
      EXPECT_FALSE(fits(sides_of(aspect, 16, 16)));
      continue;
    }
    ++found;
    EXPECT_TRUE(fits(*sides));
    const auto longer = std::max(sides->width, sides->height);
    const auto next = sides_of(aspect, longer + 16, 16);
    if (longer + 16 <= kMostSide && next.width * next.height <= kMostPixels) {
      EXPECT_FALSE(fits(next)) << next.width << " x " << next.height;
    }
  }
  EXPECT_GT(found, 10);
}

}  // namespace
}  // namespace steadyflux
