// Live: memory that is really touched must show up in the part it belongs to, and only there.
#include "memory/monitor.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "memory/release.h"
#include "temp_folder.h"

#if defined(__SANITIZE_ADDRESS__)
#define STEADYFLUX_TEST_ASAN  // brings its own malloc, which keeps freed blocks for a while
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define STEADYFLUX_TEST_ASAN
#endif
#endif

namespace steadyflux {
namespace {

constexpr std::int64_t kMiB = 1 << 20;
constexpr std::size_t kSize = 64 * kMiB;
// The kernel counts pages per thread and adds them up late (64 pages a thread): 1 MiB covers it.
constexpr std::int64_t kSlack = kMiB;

bool can_measure() { return sample_process_memory().rss_anon > 0; }

TEST(MemoryWatch, SeesAnonymousMemory) {
  if (!can_measure()) GTEST_SKIP() << "no RssAnon in /proc/self/status";
  const MemorySample before = sample_process_memory();
  MemoryWatch watch;
  void* block = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(block, MAP_FAILED);
  std::memset(block, 1, kSize);
  usleep(50 * 1000);  // ten sampling intervals
  munmap(block, kSize);
  const MemoryPeaks peaks = watch.stop();
  EXPECT_GE(peaks.rss_anon, before.rss_anon + static_cast<std::int64_t>(kSize) - kSlack);
  EXPECT_GE(peaks.rss, before.rss + static_cast<std::int64_t>(kSize) - kSlack);
  EXPECT_LT(peaks.rss_file, before.rss_file + static_cast<std::int64_t>(kSize) / 2);
  EXPECT_GE(peaks.major_faults, 0);

  // A second watch starts afresh: it does not remember the block.
  MemoryWatch again;
  EXPECT_LT(again.stop().rss, before.rss + static_cast<std::int64_t>(kSize) / 2);
}

TEST(MemoryWatch, SeesMappedFiles) {
  if (!can_measure()) GTEST_SKIP() << "no RssFile in /proc/self/status";
  TempFolder folder;
  folder.write("weights", std::string(kSize, 'w'));
  release_host_memory();
  const MemorySample before = sample_process_memory();
  MemoryWatch watch;
  const int fd = open((folder.path() / "weights").c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  void* map = mmap(nullptr, kSize, PROT_READ, MAP_PRIVATE, fd, 0);
  close(fd);
  ASSERT_NE(map, MAP_FAILED);
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < kSize; i += 4096) sum += static_cast<const char*>(map)[i];
  EXPECT_EQ(sum, static_cast<std::int64_t>(kSize / 4096) * 'w');
  const MemorySample during = sample_process_memory();
  const MemoryPeaks peaks = watch.stop();
  munmap(map, kSize);
  EXPECT_GE(during.rss_file, before.rss_file + static_cast<std::int64_t>(kSize) - kSlack);
  EXPECT_GE(peaks.rss_file, before.rss_file + static_cast<std::int64_t>(kSize) - kSlack);
  EXPECT_LT(peaks.rss_anon, before.rss_anon + static_cast<std::int64_t>(kSize) / 2);
}

TEST(MemoryWatch, StopTwiceGivesTheSame) {
  MemoryWatch watch;
  const MemoryPeaks first = watch.stop();
  EXPECT_EQ(first.rss, watch.stop().rss);
}

TEST(MemoryWatch, WithoutProcAllIsZero) {
  TempFolder root;
  MemoryWatch watch(root.path());
  const MemoryPeaks peaks = watch.stop();
  EXPECT_EQ(peaks.rss, 0);
  EXPECT_EQ(peaks.rss_anon, 0);
  EXPECT_EQ(peaks.rss_file, 0);
  EXPECT_EQ(peaks.swap, 0);
}

TEST(MemoryWatch, TakesTheFieldsApart) {
  TempFolder root;
  root.write("proc/self/status",
             "Name:\tx\nVmHWM:\t 900 kB\nVmRSS:\t 600 kB\nRssAnon:\t 300 kB\nRssFile:\t 200 kB\n"
             "RssShmem:\t 100 kB\nVmSwap:\t 50 kB\n");
  {
    MemoryWatch watch(root.path());
    const MemoryPeaks peaks = watch.stop();
    EXPECT_EQ(peaks.rss, 600 * 1024);  // VmHWM could not be reset, so it is from before
    EXPECT_EQ(peaks.rss_anon, 300 * 1024);
    EXPECT_EQ(peaks.rss_file, 300 * 1024);
    EXPECT_EQ(peaks.swap, 50 * 1024);
  }
  root.write("proc/self/clear_refs", "");
  MemoryWatch watch(root.path());
  EXPECT_EQ(watch.stop().rss, 900 * 1024);
}

// A made-up machine on which everything can be read.
void write_machine(const TempFolder& root, int scale) {
  const auto number = [scale](std::int64_t value) { return std::to_string(scale * value); };
  root.write("proc/self/status", "VmHWM:\t" + number(900) + " kB\nVmRSS:\t" + number(600) +
                                     " kB\nRssAnon:\t" + number(400) + " kB\nRssFile:\t" +
                                     number(150) + " kB\nRssShmem:\t" + number(50) +
                                     " kB\nVmSwap:\t" + number(20) + " kB\n");
  root.write("proc/self/io", "rchar: 1\nread_bytes: " + number(4096) + "\n");
  root.write("proc/meminfo", "MemTotal: 1 kB\nMemAvailable: " + number(1000) + " kB\n");
  root.write("proc/vmstat",
             "pgfault 9\npswpin " + number(3) + "\npswpout " + number(5) + "\npgmajfault 1\n");
  root.write("proc/pressure/memory", "some avg10=" + number(1) +
                                         ".50 avg60=9.00 avg300=9.00 total=" + number(70) +
                                         "\nfull avg10=" + number(1) +
                                         ".25 avg60=9.00 avg300=9.00 total=" + number(30) + "\n");
}

TEST(MemoryMonitor, ReadsTheWholeMachine) {
  TempFolder root;
  write_machine(root, 1);
  root.write("proc/self/cgroup", "0::/\n");
  root.write("sys/fs/cgroup/memory.max", "1000000\n");
  root.write("sys/fs/cgroup/memory.current", "700000\n");
  MemoryMonitor monitor({.root = root.path()});
  const MemorySample sample = monitor.sample_now();
  const std::int64_t page = sysconf(_SC_PAGESIZE);
  EXPECT_EQ(sample.rss, 600 * 1024);
  EXPECT_EQ(sample.rss_anon, 400 * 1024);
  EXPECT_EQ(sample.rss_file, 200 * 1024);
  EXPECT_EQ(sample.swap, 20 * 1024);
  EXPECT_EQ(sample.disk_read, 4096);
  EXPECT_EQ(sample.available, 1000 * 1024);
  EXPECT_EQ(sample.cgroup_used, 700000);
  EXPECT_EQ(sample.swapped_in, 3 * page);
  EXPECT_EQ(sample.swapped_out, 5 * page);
  ASSERT_TRUE(sample.stall);
  EXPECT_EQ(sample.stall->some_avg10, 1.5);
  EXPECT_EQ(sample.stall->full_avg10, 1.25);
  EXPECT_EQ(sample.stall->some_total, 70);
  EXPECT_EQ(sample.stall->full_total, 30);
  EXPECT_EQ(sample.phase, -1);
}

TEST(MemoryMonitor, TheStallsOfTheGroupComeFirst) {
  TempFolder root;
  write_machine(root, 1);
  root.write("proc/self/cgroup", "0::/app\n");
  root.write("sys/fs/cgroup/app/memory.max", "1000000\n");
  root.write("sys/fs/cgroup/app/memory.pressure",
             "some avg10=44.00 avg60=0.00 avg300=0.00 total=5\n"
             "full avg10=33.00 avg60=0.00 avg300=0.00 total=4\n");
  MemoryMonitor monitor({.root = root.path()});
  ASSERT_TRUE(monitor.sample_now().stall);
  EXPECT_EQ(monitor.sample_now().stall->full_avg10, 33);
}

TEST(MemoryMonitor, WhatTheKernelDoesNotHaveIsAbsent) {
  TempFolder root;
  write_machine(root, 1);
  root.write("proc/pressure/memory", "some avg10=lots\n");
  MemoryMonitor monitor({.root = root.path()});
  const MemorySample sample = monitor.sample_now();
  EXPECT_FALSE(sample.stall);
  EXPECT_FALSE(sample.cgroup_used);
}

TEST(MemoryMonitor, CountsPerPhase) {
  TempFolder root;
  write_machine(root, 1);
  std::atomic<std::int64_t> level = 100;
  const auto device = [&level] {
    DeviceSample sample;
    sample.allocated = level;
    sample.reserved = level + 10;
    sample.peak_allocated = level + 500;
    sample.peak_reserved = level + 600;
    sample.alloc_retries = level / 100;
    return sample;
  };
  MemoryMonitor monitor({.root = root.path(), .device = device});
  monitor.phase_started("encode", 1234, 567);
  write_machine(root, 3);
  level = 400;
  const MemoryPeaks peaks = monitor.phase_finished();
  const std::int64_t page = sysconf(_SC_PAGESIZE);
  EXPECT_EQ(peaks.rss, 3 * 600 * 1024);
  EXPECT_EQ(peaks.rss_anon, 3 * 400 * 1024);
  EXPECT_EQ(peaks.swap, 3 * 20 * 1024);
  EXPECT_EQ(peaks.disk_read, 2 * 4096);
  EXPECT_EQ(peaks.swapped_in, 2 * 3 * page);
  EXPECT_EQ(peaks.swapped_out, 2 * 5 * page);
  EXPECT_EQ(peaks.device_allocated, 900);
  EXPECT_EQ(peaks.device_reserved, 1000);
  EXPECT_EQ(peaks.alloc_retries, 3);

  monitor.phase_started("decode");
  monitor.note("a new plan");
  const MemoryPeaks second = monitor.phase_finished();
  EXPECT_EQ(second.disk_read, 0);
  EXPECT_EQ(second.alloc_retries, 0);
  monitor.stop();
  const MemoryTimeline timeline = monitor.timeline();
  ASSERT_EQ(timeline.phases.size(), 2u);
  EXPECT_EQ(timeline.phases[0].name, "encode");
  EXPECT_EQ(timeline.phases[0].predicted_ram, 1234);
  EXPECT_EQ(timeline.phases[0].predicted_device, 567);
  EXPECT_EQ(timeline.phases[0].peaks.rss, peaks.rss);
  EXPECT_LE(timeline.phases[0].end, timeline.phases[1].start);
  EXPECT_LE(timeline.phases[1].end, timeline.seconds);
  ASSERT_EQ(timeline.events.size(), 1u);
  EXPECT_EQ(timeline.events[0].text, "a new plan");
  for (const MemorySample& sample : timeline.samples) {
    if (sample.phase < 0) continue;
    EXPECT_GE(sample.seconds, timeline.phases[static_cast<std::size_t>(sample.phase)].start);
    EXPECT_LE(sample.seconds, timeline.phases[static_cast<std::size_t>(sample.phase)].end);
  }
}

TEST(MemoryMonitor, APhaseThatRunsIsFinishedByTheNextAndByStop) {
  MemoryMonitor monitor;
  monitor.phase_started("encode");
  monitor.phase_started("denoise");
  monitor.stop();
  const MemoryTimeline timeline = monitor.timeline();
  ASSERT_EQ(timeline.phases.size(), 2u);
  EXPECT_LE(timeline.phases[0].end, timeline.phases[1].start);
  EXPECT_GT(timeline.phases[1].end, timeline.phases[1].start);
  EXPECT_EQ(monitor.phase_finished().rss, 0);  // none runs
  monitor.phase_started("late");
  EXPECT_EQ(monitor.timeline().phases.size(), 2u);
}

TEST(MemoryMonitor, ADeviceThatThrowsCostsOnlyItsNumbers) {
  std::atomic<int> calls = 0;
  const auto device = [&calls]() -> DeviceSample {
    ++calls;
    throw 42;  // not even a std::exception
  };
  MemoryMonitor monitor({.root = "/", .device = device});
  monitor.phase_started("encode");
  while (calls < 5) usleep(1000);  // the thread goes on
  const MemoryPeaks peaks = monitor.phase_finished();
  EXPECT_EQ(peaks.device_allocated, 0);
  EXPECT_EQ(peaks.rss > 0, can_measure());
}

TEST(MemoryMonitor, SeesAPhasesPeakAndForgetsItInTheNext) {
  if (!can_measure()) GTEST_SKIP() << "no RssAnon in /proc/self/status";
  MemoryMonitor monitor;
  const MemorySample before = monitor.sample_now();
  monitor.phase_started("large");
  void* block = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(block, MAP_FAILED);
  std::memset(block, 1, kSize);
  munmap(block, kSize);
  const MemoryPeaks large = monitor.phase_finished();
  monitor.phase_started("small");
  const MemoryPeaks small = monitor.phase_finished();
  EXPECT_LT(small.rss, before.rss + static_cast<std::int64_t>(kSize) / 2);
  const int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
  if (fd < 0) GTEST_SKIP() << "VmHWM cannot be reset here: peaks are those of samples";
  close(fd);
  EXPECT_GE(large.rss, before.rss + static_cast<std::int64_t>(kSize) - kSlack);
}

TEST(MemoryMonitor, ItsThreadTakesNoSignals) {
  // With the signal blocked here, only the sampler could take it: it must stay pending.
  sigset_t one;
  sigset_t before;
  sigemptyset(&one);
  sigaddset(&one, SIGUSR1);
  MemoryMonitor monitor;
  ASSERT_EQ(pthread_sigmask(SIG_BLOCK, &one, &before), 0);
  ASSERT_EQ(kill(getpid(), SIGUSR1), 0);  // its default would end the program
  timespec no_time{};
  EXPECT_EQ(sigtimedwait(&one, nullptr, &no_time), SIGUSR1);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

TEST(ReleaseHostMemory, GivesFreedBlocksBack) {
#if !defined(__GLIBC__) || defined(STEADYFLUX_TEST_ASAN)
  GTEST_SKIP() << "malloc_trim is for glibc's own malloc";
#endif
  if (!can_measure()) GTEST_SKIP() << "no RssAnon in /proc/self/status";
  // Blocks below the mmap threshold stay in the arena when freed, if one above them is in use.
  constexpr std::size_t kBlock = 64 * 1024;
  std::vector<void*> blocks;
  for (std::size_t i = 0; i < kSize / kBlock; ++i) {
    blocks.push_back(std::malloc(kBlock));
    std::memset(blocks.back(), 1, kBlock);
  }
  void* above = std::malloc(kBlock);
  for (void* block : blocks) std::free(block);
  release_host_memory();
  const std::int64_t after = sample_process_memory().rss_anon;
  std::free(above);
  EXPECT_LT(after, static_cast<std::int64_t>(kSize) / 2);
}

}  // namespace
}  // namespace steadyflux
