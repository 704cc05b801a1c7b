// Made-up samples: what a healthy run looks like says nothing, each kind of trouble is told once.
#include "memory/pressure.h"

#include <gtest/gtest.h>

#include <functional>

namespace steadyflux {
namespace {

constexpr std::int64_t kMiB = 1 << 20;

using Change = std::function<void(MemorySample&)>;

// Four samples a second from `from` on; `change` makes each out of the one before it. How often a
// reason was told, and the first one.
struct Told {
  int times = 0;
  double first_at = 0;
  std::string first;
};
Told watch(PressureDetector& detector, MemorySample& sample, double seconds, const Change& change) {
  Told told;
  const double end = sample.seconds + seconds;
  while (sample.seconds < end) {
    sample.seconds += 0.25;
    change(sample);
    const auto reason = detector.check(sample);
    if (!reason) continue;
    if (told.times++ == 0) {
      told.first_at = sample.seconds;
      told.first = *reason;
    }
  }
  return told;
}

const Change kNothing = [](MemorySample&) {};
const Change kFaults = [](MemorySample& sample) { sample.major_faults += 500; };  // 2000 a second
const Change kSwapIns = [](MemorySample& sample) { sample.swapped_in += 5 * kMiB; };
const Change kOwnSwap = [](MemorySample& sample) { sample.swap += 4 * kMiB; };
const Change kRetries = [](MemorySample& sample) { ++sample.device.alloc_retries; };
const Change kStall = [](MemorySample& sample) {
  sample.stall = StallSample{.some_avg10 = 60, .full_avg10 = 25};
};

bool has(const Told& told, const char* part) { return told.first.find(part) != std::string::npos; }

TEST(Pressure, AColdStartIsNone) {
  PressureDetector detector;
  MemorySample sample;
  detector.phase_started();
  // Weights are mapped and read for minutes; some of the machine's own things wait for memory.
  const auto reading = [](MemorySample& s) {
    s.major_faults += 1500;
    s.rss += 200 * kMiB;
    s.stall = StallSample{.some_avg10 = 40, .full_avg10 = 4};
  };
  EXPECT_EQ(watch(detector, sample, 120, reading).times, 0);
  detector.first_pass_done();
  EXPECT_EQ(watch(detector, sample, 120, kNothing).times, 0);
}

TEST(Pressure, FaultsBeforeTheFirstPassEndedDoNotCountLater) {
  PressureDetector detector;
  MemorySample sample;
  detector.phase_started();
  watch(detector, sample, 60.75, kFaults);  // the pass ends in the middle of a window
  detector.first_pass_done();
  EXPECT_EQ(watch(detector, sample, 2, kFaults).times, 0);  // a few late ones
  EXPECT_EQ(watch(detector, sample, 60, kNothing).times, 0);
}

TEST(Pressure, FaultsAfterTheFirstPass) {
  PressureDetector detector;
  MemorySample sample;
  detector.first_pass_done();
  const double begin = sample.seconds;
  const Told told = watch(detector, sample, 10, kFaults);
  EXPECT_EQ(told.times, 1);
  EXPECT_TRUE(has(told, "2000 major faults a second")) << told.first;
  EXPECT_GE(told.first_at - begin, PressureDetector::kSustained);
  EXPECT_EQ(watch(detector, sample, 60, kNothing).times, 0);
}

TEST(Pressure, TheNextPhaseMayReadItsWeights) {
  PressureDetector detector;
  MemorySample sample;
  detector.first_pass_done();
  watch(detector, sample, 30, kNothing);
  detector.phase_started();
  EXPECT_EQ(watch(detector, sample, 60, kFaults).times, 0);
}

TEST(Pressure, FewFaultsAreNone) {
  PressureDetector detector;
  MemorySample sample;
  detector.first_pass_done();
  const auto few = [](MemorySample& s) { s.major_faults += 20; };  // 80 a second
  EXPECT_EQ(watch(detector, sample, 60, few).times, 0);
}

// A quarter of a second each: what the disk gave, and what was asked of it.
std::optional<std::string> read_for(PressureDetector& detector, MemorySample& sample,
                                    double seconds, std::int64_t read, std::int64_t planned,
                                    std::optional<std::int64_t>& total_planned) {
  std::optional<std::string> first;
  for (const double end = sample.seconds + seconds; sample.seconds < end;) {
    sample.seconds += 0.25;
    sample.disk_read += read;
    if (total_planned) *total_planned += planned;
    const auto reason = detector.check(sample, total_planned);
    if (!first) first = reason;
  }
  return first;
}

TEST(Pressure, WeightsThatAreReadInOrderAgain) {
  PressureDetector detector;
  MemorySample sample;
  std::optional<std::int64_t> planned = 0;
  EXPECT_FALSE(read_for(detector, sample, 30, 400 * kMiB, 0, planned));  // the first pass
  detector.first_pass_done();
  const auto reason = read_for(detector, sample, 10, 50 * kMiB, 0, planned);
  ASSERT_TRUE(reason);
  EXPECT_NE(reason->find("read again: 200.00 MiB a second"), std::string::npos) << *reason;
}

TEST(Pressure, StreamingOnPurposeIsNone) {
  PressureDetector detector;
  MemorySample sample;
  std::optional<std::int64_t> planned = 0;
  detector.first_pass_done();
  // 2 GB a second, with 4 % more than planned: rounded up to whole blocks of the disk.
  EXPECT_FALSE(read_for(detector, sample, 60, 520 * kMiB, 500 * kMiB, planned));
  // And as much again that nobody asked for.
  EXPECT_TRUE(read_for(detector, sample, 10, 520 * kMiB, 250 * kMiB, planned));
}

TEST(Pressure, BytesAreNotJudgedWithoutAPlan) {
  PressureDetector detector;
  MemorySample sample;
  std::optional<std::int64_t> planned;
  detector.first_pass_done();
  EXPECT_FALSE(read_for(detector, sample, 60, 500 * kMiB, 0, planned));
}

TEST(Pressure, OneCheckPerLongStepSuffices) {
  PressureDetector detector;
  MemorySample sample;
  EXPECT_FALSE(detector.check(sample));
  detector.first_pass_done();
  sample.seconds = 100;
  sample.major_faults = 50'000;  // of the first pass
  EXPECT_FALSE(detector.check(sample));
  sample.seconds = 160;
  sample.major_faults += 12'000;  // 200 a second over a step of a minute
  const auto reason = detector.check(sample);
  ASSERT_TRUE(reason);
  EXPECT_NE(reason->find("200 major faults"), std::string::npos) << *reason;
}

TEST(Pressure, SwapIns) {
  PressureDetector detector;
  MemorySample sample;
  sample.swapped_in = 9000 * kMiB;  // since boot: not ours
  EXPECT_EQ(watch(detector, sample, 30, kNothing).times, 0);
  const Told told = watch(detector, sample, 10, kSwapIns);
  EXPECT_EQ(told.times, 1);
  EXPECT_TRUE(has(told, "20.00 MiB a second")) << told.first;
}

TEST(Pressure, AProgramThatComesToTheFrontIsNone) {
  PressureDetector detector;
  MemorySample sample;
  watch(detector, sample, 30, kNothing);
  EXPECT_EQ(watch(detector, sample, 2, kSwapIns).times, 0);
  EXPECT_EQ(watch(detector, sample, 30, kNothing).times, 0);
}

TEST(Pressure, ThisProcessIsSwapped) {
  PressureDetector detector;
  MemorySample sample;
  sample.swap = 500 * kMiB;  // from before
  EXPECT_EQ(watch(detector, sample, 10, kNothing).times, 0);
  const Told told = watch(detector, sample, 5, kOwnSwap);
  EXPECT_EQ(told.times, 1);
  EXPECT_TRUE(has(told, "32.00 MiB of this process to swap")) << told.first;
}

TEST(Pressure, SwapThatComesBackIsForgotten) {
  PressureDetector detector;
  MemorySample sample;
  sample.swap = 500 * kMiB;
  watch(detector, sample, 1, kNothing);
  const auto back = [](MemorySample& s) { s.swap = 0; };
  EXPECT_EQ(watch(detector, sample, 1, back).times, 0);
  EXPECT_EQ(watch(detector, sample, 2, kOwnSwap).times, 1);  // from 0 to 32 MiB
}

TEST(Pressure, SomeMegabytesOfSwapAreNone) {
  PressureDetector detector;
  MemorySample sample;
  watch(detector, sample, 1, kNothing);
  const auto little = [](MemorySample& s) { s.swap = 31 * kMiB; };
  EXPECT_EQ(watch(detector, sample, 60, little).times, 0);
}

TEST(Pressure, EveryTaskStandsStill) {
  PressureDetector detector;
  MemorySample sample;
  watch(detector, sample, 1, kNothing);
  const Told told = watch(detector, sample, 10, kStall);
  EXPECT_EQ(told.times, 1);
  EXPECT_TRUE(has(told, "25 % of the last 10 s")) << told.first;
}

TEST(Pressure, StallsFromBeforeTheBeginningAreNotOurs) {
  PressureDetector detector;
  MemorySample sample;
  sample.stall = StallSample{.some_avg10 = 90, .full_avg10 = 80};
  EXPECT_FALSE(detector.check(sample));
  const auto fades = [](MemorySample& s) { s.stall->full_avg10 *= 0.95; };  // as in the kernel
  EXPECT_EQ(watch(detector, sample, 60, fades).times, 0);
  EXPECT_EQ(watch(detector, sample, 1, kStall).times, 1);
}

TEST(Pressure, TheDeviceRanFull) {
  PressureDetector detector;
  MemorySample sample;
  sample.device.alloc_retries = 7;
  EXPECT_EQ(watch(detector, sample, 1, kNothing).times, 0);
  const Told told = watch(detector, sample, 0.25, kRetries);
  EXPECT_EQ(told.times, 1);
  EXPECT_TRUE(has(told, "1 time")) << told.first;
  EXPECT_EQ(watch(detector, sample, 60, kNothing).times, 0);
}

TEST(Pressure, ToldAgainOnlyAfterTheCoolDown) {
  struct Case {
    const char* name;
    Change change;
    double cool_down;
  };
  const Case cases[] = {{"faults", kFaults, PressureDetector::kHostCoolDown},
                        {"swap-ins", kSwapIns, PressureDetector::kHostCoolDown},
                        {"own swap", kOwnSwap, PressureDetector::kHostCoolDown},
                        {"stall", kStall, PressureDetector::kHostCoolDown},
                        {"retries", kRetries, PressureDetector::kDeviceCoolDown}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    PressureDetector detector;
    MemorySample sample;
    detector.first_pass_done();
    EXPECT_FALSE(detector.check(sample));
    while (watch(detector, sample, 0.25, c.change).times == 0) ASSERT_LT(sample.seconds, 60);
    EXPECT_EQ(watch(detector, sample, c.cool_down - 0.25, c.change).times, 0);
    // It goes on: told a second time, as soon as a window says so.
    EXPECT_EQ(watch(detector, sample, PressureDetector::kSustained + 5, c.change).times,
              c.cool_down > 10 ? 1 : 5);
  }
}

TEST(Pressure, OneTroubleIsOneReason) {
  PressureDetector detector;
  MemorySample sample;
  detector.first_pass_done();
  EXPECT_FALSE(detector.check(sample));
  const auto all = [](MemorySample& s) {
    kFaults(s);
    kSwapIns(s);
    kOwnSwap(s);
    kStall(s);
  };
  EXPECT_EQ(watch(detector, sample, 15, all).times, 1);
}

TEST(Pressure, WhatTheDeviceSaysDoesNotHideTheHost) {
  PressureDetector detector;
  MemorySample sample;
  EXPECT_FALSE(detector.check(sample));
  const auto both = [](MemorySample& s) {
    kRetries(s);
    kStall(s);
  };
  const Told told = watch(detector, sample, 0.5, both);
  EXPECT_EQ(told.times, 2);
}

}  // namespace
}  // namespace steadyflux
