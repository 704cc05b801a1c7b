// Whose pages become part of what, and that they are given back.
#include "base/pages.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstring>

namespace steadyflux {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

Pages new_pages(std::size_t size) {
  std::deque<Pages> none;
  return Pages::take(size, none);
}

Pages filled(std::size_t size, int value) {
  auto pages = new_pages(size);
  std::memset(pages.data(), value, size);
  return pages;
}

std::int64_t count(const Pages& pages, int value) {
  const auto* begin = static_cast<const unsigned char*>(pages.data());
  return std::count(begin, begin + pages.size(), value);
}

std::int64_t page_faults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt;
}

TEST(Pages, AreWholeAndEmptyAtFirst) {
  const auto pages = new_pages(kMiB + 1);
  EXPECT_GT(pages.size(), kMiB);
  EXPECT_LT(pages.size(), 2 * kMiB);
  EXPECT_EQ(count(pages, 0), static_cast<std::int64_t>(pages.size()));
}

TEST(Pages, GoOnIntoOneThatIsLarger) {
  std::deque<Pages> old;
  old.push_back(filled(3 * kMiB, 1));
  old.push_back(filled(2 * kMiB, 2));
  const auto before = page_faults();
  auto larger = Pages::take(6 * kMiB, old);
  EXPECT_TRUE(old.empty());
  std::memset(larger.data(), 4, 5 * kMiB);
  EXPECT_LT(page_faults(), before + 300);  // 5 MiB of new ones are 1280
  EXPECT_EQ(count(larger, 0), static_cast<std::int64_t>(kMiB));
}

TEST(Pages, TheFirstGivesFromItsEnd) {
  std::deque<Pages> old;
  old.push_back(filled(4 * kMiB, 1));
  old.push_back(filled(4 * kMiB, 2));
  const auto* place = old.front().data();
  const auto taken = Pages::take(kMiB, old);
  EXPECT_EQ(count(taken, 1), static_cast<std::int64_t>(kMiB));
  ASSERT_EQ(old.size(), 2U);
  EXPECT_EQ(old.front().data(), place);
  EXPECT_EQ(old.front().size(), 3 * kMiB);
  EXPECT_EQ(count(old.front(), 1), static_cast<std::int64_t>(3 * kMiB));
}

// A last bit that is too small to be moved costs none of what is kept.
TEST(Pages, OldOnesStayWhereLittleIsMissing) {
  std::deque<Pages> old;
  old.push_back(filled(2 * kMiB, 1));
  old.push_back(filled(16 * kMiB, 2));
  const auto taken = Pages::take(2 * kMiB + 1, old);
  EXPECT_EQ(count(taken, 1), static_cast<std::int64_t>(2 * kMiB));
  ASSERT_EQ(old.size(), 1U);
  EXPECT_EQ(count(old.front(), 2), static_cast<std::int64_t>(16 * kMiB));
}

// What has been put together of parts comes apart again, wherever it is cut.
TEST(Pages, MoveOnAnyNumberOfTimes) {
  std::deque<Pages> old;
  for (int i = 1; i <= 5; ++i) old.push_back(filled(kMiB, i));
  const std::size_t sizes[] = {3 * kMiB, 700'000, 2 * kMiB, 5 * kMiB, 1'300'000, 4 * kMiB};
  for (int round = 0; round < 50; ++round) {
    for (const auto size : sizes) {
      auto pages = Pages::take(size, old);
      std::memset(pages.data(), 7, pages.size());
      EXPECT_EQ(count(pages, 7), static_cast<std::int64_t>(pages.size()));
      old.push_back(std::move(pages));
    }
  }
}

TEST(Pages, WhereTheSystemHasNoneLeftOldOnesStay) {
  std::deque<Pages> old;
  old.push_back(filled(kMiB, 1));
  EXPECT_THROW(Pages::take(std::size_t{1} << 60, old), std::bad_alloc);
  ASSERT_EQ(old.size(), 1U);
  EXPECT_EQ(count(old.front(), 1), static_cast<std::int64_t>(kMiB));
}

}  // namespace
}  // namespace steadyflux
