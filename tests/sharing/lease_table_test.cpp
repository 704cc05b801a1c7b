#include "sharing/lease_table.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "expect_error.h"
#include "sharing/liveness.h"

namespace steadyflux {
namespace {

using std::chrono::seconds;
using Items = std::vector<std::int64_t>;

bool nobody(std::int64_t) { return false; }

TEST(LeaseTable, BlocksSurviveTheStore) {
  const Block block = {kFree, kDone, kFailed, leased_by(1), leased_by(70000)};
  EXPECT_EQ(decode_block(encode(block), 5), block);
  EXPECT_EQ(holder(block[4]), 70000);
  EXPECT_TRUE(is_leased(block[3]));
  EXPECT_FALSE(is_leased(block[2]));
}

TEST(LeaseTable, ABlockOfAnotherSizeIsRefused) {
  expect_error(ErrorKind::kBadInput, "same version", [] { decode_block("1234", 2); });
  expect_error(ErrorKind::kBadInput, "same version", [] { decode_block("", 1); });
}

TEST(LeaseTable, SessionsSurviveTheStore) {
  const Session session = {3, "key \"\xff", 1000, 7, {{2, "a:1:2"}, {7, "b:3:4"}}};
  const Session back = decode_session(encode(session));
  EXPECT_EQ(encode(back), encode(session));
  EXPECT_EQ(back.number, 3);
  EXPECT_EQ(back.items, 1000);
  EXPECT_EQ(back.joined, 7);
  EXPECT_TRUE(back.has(7));
  EXPECT_FALSE(back.has(3));
  for (const char* text : {"", "{", "[]", "{\"session\":1}", "{\"session\":\"x\"}"}) {
    expect_error(ErrorKind::kBadInput, "same version", [&] { decode_session(text); });
  }
}

TEST(LeaseTable, TakesFreeItemsInTheirOrder) {
  Block block = {kDone, kFree, leased_by(2), kFailed, kFree, kFree};
  EXPECT_EQ(take_from(block, 1, 2, nobody), (Items{1, 4}));
  EXPECT_EQ(block, (Block{kDone, leased_by(1), leased_by(2), kFailed, leased_by(1), kFree}));
  EXPECT_EQ(take_from(block, 1, 9, nobody), (Items{5}));
  EXPECT_EQ(take_from(block, 1, 9, nobody), Items{});
}

TEST(LeaseTable, TakesWhatTheDeadHeld) {
  Block block = {leased_by(2), leased_by(3), kDone};
  EXPECT_EQ(take_from(block, 1, 9, [](std::int64_t id) { return id == 3; }), (Items{1}));
  EXPECT_EQ(block, (Block{leased_by(2), leased_by(1), kDone}));
}

class LivenessTest : public ::testing::Test {
 protected:
  void saw(std::int64_t counter, int second) { liveness.saw(1, counter, begin + seconds(second)); }

  Liveness::Clock::time_point begin = Liveness::Clock::now();
  Liveness liveness{seconds(30)};
};

TEST_F(LivenessTest, AStrangerIsNeitherDeadNorAlive) {
  EXPECT_FALSE(liveness.lives(1));
  EXPECT_FALSE(liveness.is_dead(1));
  saw(5, 0);
  EXPECT_FALSE(liveness.lives(1));
  EXPECT_FALSE(liveness.is_dead(1));
}

TEST_F(LivenessTest, ACounterThatChangesIsLife) {
  saw(5, 0);
  saw(6, 40);
  EXPECT_TRUE(liveness.lives(1));
  EXPECT_FALSE(liveness.is_dead(1));
}

TEST_F(LivenessTest, DeadAfterALeaseWithoutAChange) {
  saw(5, 0);
  saw(6, 10);
  for (int second : {20, 30, 39}) saw(6, second);
  EXPECT_FALSE(liveness.is_dead(1));
  saw(6, 40);
  EXPECT_TRUE(liveness.is_dead(1));
  EXPECT_FALSE(liveness.lives(1));
  saw(7, 41);  // it was only slow
  EXPECT_FALSE(liveness.is_dead(1));
  EXPECT_TRUE(liveness.lives(1));
}

// Whoever slept for an hour sees the others' old counter first: that is no reason to bury them.
TEST_F(LivenessTest, OneLookAfterALongPauseIsNotEnough) {
  saw(5, 0);
  saw(5, 3600);
  saw(5, 3601);
  EXPECT_FALSE(liveness.is_dead(1));
  saw(6, 3602);
  EXPECT_FALSE(liveness.is_dead(1));
}

}  // namespace
}  // namespace steadyflux
