// A run of any length keeps a timeline of bounded size, in which no peak and no phase is lost.
#include "memory/timeline.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

namespace steadyflux {
namespace {

constexpr std::size_t kMax = 4000;

// Adds one sample, as the monitor does: the phase's end goes along with it.
void add(MemoryTimeline& timeline, const MemorySample& sample, double& resolution) {
  if (sample.phase >= 0) {
    timeline.phases[static_cast<std::size_t>(sample.phase)].end = sample.seconds;
  }
  add_sample(timeline, sample, resolution, kMax);
}

TEST(Timeline, ShortRunsKeepEverySample) {
  MemoryTimeline timeline;
  timeline.phases.push_back({.name = "encode"});
  double resolution = 0;
  for (int i = 0; i < 3000; ++i) {
    MemorySample sample;
    sample.seconds = 0.005 * i;
    sample.phase = 0;
    sample.rss = i;
    add(timeline, sample, resolution);
  }
  ASSERT_EQ(timeline.samples.size(), 3000u);
  for (int i = 0; i < 3000; ++i) EXPECT_EQ(timeline.samples[static_cast<std::size_t>(i)].rss, i);
}

TEST(Timeline, TenHoursStaySmallAndEven) {
  MemoryTimeline timeline;
  timeline.phases.resize(3);
  double resolution = 0;
  double seconds = 0;
  std::int64_t count = 0;
  std::map<int, std::int64_t> peaks;
  const auto phase = [&](int index, double length, double interval) {
    timeline.phases[static_cast<std::size_t>(index)].start = seconds;
    for (const double end = seconds + length; seconds < end; seconds += interval) {
      MemorySample sample;
      sample.seconds = seconds;
      sample.phase = index;
      sample.rss = 1000 + count % 997;
      sample.available = 5000 - count % 991;
      sample.major_faults = ++count;
      if (count == 777 || count == 100'000) sample.rss = 9000 + index;  // a spike of one sample
      peaks[index] = std::max(peaks[index], sample.rss);
      add(timeline, sample, resolution);
      ASSERT_LE(timeline.samples.size(), kMax);
    }
  };
  phase(0, 10, 0.005);
  phase(1, 36'000, 0.25);
  phase(2, 10, 0.005);

  std::map<int, std::int64_t> kept_peaks;
  std::map<int, std::size_t> kept;
  for (const MemorySample& sample : timeline.samples) {
    kept_peaks[sample.phase] = std::max(kept_peaks[sample.phase], sample.rss);
    ++kept[sample.phase];
  }
  EXPECT_EQ(kept_peaks, peaks);
  EXPECT_EQ(timeline.samples.back().major_faults, count);
  EXPECT_GE(kept[0], 50u);  // short phases beside a long one can still be drawn
  EXPECT_GE(kept[2], 50u);
  EXPECT_GE(kept[1], kMax / 4);
  // Even: no gap of the long phase is much wider than the average one.
  double widest = 0;
  double before = 10;
  for (const MemorySample& sample : timeline.samples) {
    if (sample.phase != 1) continue;
    EXPECT_GE(sample.seconds, before);
    widest = std::max(widest, sample.seconds - before);
    before = sample.seconds;
  }
  EXPECT_LE(widest, 4 * 36'000.0 / static_cast<double>(kept[1]));
}

TEST(Timeline, MorePhasesThanRoom) {
  MemoryTimeline timeline;
  double resolution = 0;
  std::int64_t peak = 0;
  for (int i = 0; i < 20'000; ++i) {  // two samples each
    timeline.phases.push_back({.name = "decode", .start = 2.0 * i, .end = 2.0 * i});
    for (const int half : {0, 1}) {
      MemorySample sample;
      sample.seconds = 2.0 * i + half;
      sample.phase = i;
      sample.rss = (i * 7919) % 10'007;
      peak = std::max(peak, sample.rss);
      add(timeline, sample, resolution);
      ASSERT_LE(timeline.samples.size(), kMax);
    }
  }
  EXPECT_GE(timeline.samples.size(), kMax / 4);
  std::int64_t kept = 0;
  for (const MemorySample& sample : timeline.samples) kept = std::max(kept, sample.rss);
  EXPECT_EQ(kept, peak);
  EXPECT_TRUE(std::is_sorted(timeline.samples.begin(), timeline.samples.end(),
                             [](const auto& a, const auto& b) { return a.seconds < b.seconds; }));
}

TEST(Timeline, MergedSamples) {
  MemorySample a;
  a.seconds = 1;
  a.phase = 3;
  a.rss = 50;
  a.rss_anon = 10;
  a.rss_file = 40;
  a.swap = 7;
  a.available = 100;
  a.cgroup_used = 60;
  a.major_faults = 5;
  a.stall = StallSample{.some_avg10 = 3, .full_avg10 = 2, .some_total = 30, .full_total = 20};
  a.device = {.allocated = 8, .reserved = 20, .alloc_retries = 1};
  MemorySample b = a;
  b.seconds = 2;
  b.rss = 45;
  b.rss_anon = 35;
  b.rss_file = 10;
  b.swap = 9;
  b.available = 120;
  b.cgroup_used = std::nullopt;
  b.major_faults = 6;
  b.stall = StallSample{.some_avg10 = 1, .full_avg10 = 4, .some_total = 31, .full_total = 22};
  b.device = {.allocated = 9, .reserved = 10, .alloc_retries = 2};
  const MemorySample merged = merge_samples(a, b);
  EXPECT_EQ(merged.seconds, 1);
  EXPECT_EQ(merged.phase, 3);
  EXPECT_EQ(merged.rss, 50);
  EXPECT_EQ(merged.rss_anon, 35);
  EXPECT_EQ(merged.rss_file, 40);
  EXPECT_EQ(merged.swap, 9);
  EXPECT_EQ(merged.available, 100);
  EXPECT_EQ(merged.cgroup_used, 60);
  EXPECT_EQ(merged.major_faults, 6);
  ASSERT_TRUE(merged.stall);
  EXPECT_EQ(merged.stall->some_avg10, 3);
  EXPECT_EQ(merged.stall->full_avg10, 4);
  EXPECT_EQ(merged.stall->full_total, 22);
  EXPECT_EQ(merged.device.allocated, 9);
  EXPECT_EQ(merged.device.reserved, 20);
  EXPECT_EQ(merged.device.alloc_retries, 2);
}

TEST(Timeline, WhatIsAppendedFollowsInTime) {
  MemoryTimeline first;
  first.seconds = 10;
  first.phases = {{.name = "encode", .start = 0, .end = 4},
                  {.name = "denoise", .start = 5, .end = 9}};
  first.samples.resize(2);
  first.samples[1].seconds = 9;
  first.samples[1].phase = 1;
  first.ram_budget = 100;
  MemoryTimeline next;
  next.seconds = 3;
  next.phases = {{.name = "decode", .start = 1, .end = 2}};
  next.samples.resize(2);  // the first lies between phases
  next.samples[1].seconds = 1.5;
  next.samples[1].phase = 0;
  next.events = {{.seconds = 2, .text = "tight"}};
  next.title = "two stages";
  next.ram_budget = 90;
  append_timeline(first, next);
  EXPECT_EQ(first.seconds, 13);
  ASSERT_EQ(first.phases.size(), 3u);
  EXPECT_EQ(first.phases[2].start, 11);
  EXPECT_EQ(first.phases[2].end, 12);
  ASSERT_EQ(first.samples.size(), 4u);
  EXPECT_EQ(first.samples[1].phase, 1);
  EXPECT_EQ(first.samples[2].phase, -1);
  EXPECT_EQ(first.samples[2].seconds, 10);
  EXPECT_EQ(first.samples[3].phase, 2);
  EXPECT_EQ(first.samples[3].seconds, 11.5);
  EXPECT_EQ(first.events.at(0).seconds, 12);
  EXPECT_EQ(first.title, "two stages");
  EXPECT_EQ(first.ram_budget, 90);
}

}  // namespace
}  // namespace steadyflux
