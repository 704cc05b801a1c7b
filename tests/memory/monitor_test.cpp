// Live: memory that is really touched must show up in the part it belongs to, and only there.
#include "memory/monitor.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

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
