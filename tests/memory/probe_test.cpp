// Made-up /proc and /sys trees: each is one kind of machine or container met in the field.
#include "memory/probe.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <thread>

#include "temp_folder.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kGiB = std::int64_t{1} << 30;
constexpr const char* kUnlimitedV1 = "9223372036854771712\n";

TEST(ProbeHostMemory, ReadsMeminfo) {
  TempFolder root;
  root.write("proc/meminfo",
             "MemTotal:       16384 kB\nMemFree: 1 kB\nMemAvailable:    8192 kB\n"
             "SwapTotal:       2048 kB\nSwapFree:        1024 kB\n");
  const HostMemory memory = probe_host_memory(root.path());
  EXPECT_EQ(memory.total, 16384 * 1024);
  EXPECT_EQ(memory.available, 8192 * 1024);
  EXPECT_EQ(memory.swap_total, 2048 * 1024);
  EXPECT_EQ(memory.swap_free, 1024 * 1024);
  EXPECT_FALSE(memory.cgroup_limit);
}

TEST(ProbeHostMemory, NothingThereIsZeros) {
  TempFolder root;
  const HostMemory memory = probe_host_memory(root.path());
  EXPECT_EQ(memory.total, 0);
  EXPECT_EQ(memory.available, 0);
  EXPECT_FALSE(memory.cgroup_limit);
  EXPECT_FALSE(memory.cgroup_used);
}

TEST(ProbeHostMemory, OddTextIsZeros) {
  TempFolder root;
  root.write("proc/meminfo", "MemTotal: lots\nMemAvailable:\nSwapTotal: -5 kB");
  root.write("proc/self/cgroup", "::\n:\nnonsense\n0::/../../etc\n5:memory");
  const HostMemory memory = probe_host_memory(root.path());
  EXPECT_EQ(memory.total, 0);
  EXPECT_EQ(memory.available, 0);
  EXPECT_EQ(memory.swap_total, 0);
  EXPECT_FALSE(memory.cgroup_limit);
}

TEST(ProbeHostMemory, SmallestV1LimitOnTheWayUp) {
  TempFolder root;
  root.write("proc/self/cgroup", "9:cpu,cpuacct:/x\n4:memory:/a/b\n0::/\n");
  root.write("sys/fs/cgroup/memory/memory.limit_in_bytes", kUnlimitedV1);
  root.write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "2147483648\n");
  root.write("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "1000000\n");
  root.write("sys/fs/cgroup/memory/a/memory.stat", "cache 9\ntotal_inactive_file 400000\n");
  root.write("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "4294967296\n");
  root.write("sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", "77\n");
  const HostMemory memory = probe_host_memory(root.path());
  EXPECT_EQ(memory.cgroup_limit, 2 * kGiB);
  EXPECT_EQ(memory.cgroup_used, 600000);
}

TEST(ProbeHostMemory, UnlimitedV1IsNoLimit) {
  TempFolder root;
  root.write("proc/self/cgroup", "4:memory:/a\n");
  root.write("sys/fs/cgroup/memory/memory.limit_in_bytes", kUnlimitedV1);
  root.write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", kUnlimitedV1);
  EXPECT_FALSE(probe_host_memory(root.path()).cgroup_limit);
}

TEST(ProbeHostMemory, SmallestV2LimitOnTheWayUp) {
  TempFolder root;
  root.write("proc/self/cgroup", "0::/user.slice/app.scope\n");
  root.write("sys/fs/cgroup/user.slice/memory.max", "max\n");
  root.write("sys/fs/cgroup/user.slice/app.scope/memory.max", "1073741824\n");
  root.write("sys/fs/cgroup/user.slice/app.scope/memory.current", "5000\n");
  root.write("sys/fs/cgroup/user.slice/app.scope/memory.stat", "anon 1\ninactive_file 6000\n");
  const HostMemory memory = probe_host_memory(root.path());
  EXPECT_EQ(memory.cgroup_limit, kGiB);
  EXPECT_EQ(memory.cgroup_used, 0);  // never negative
}

TEST(ProbeHostMemory, TheGroupThatLeavesLeastCounts) {
  TempFolder root;
  root.write("proc/self/cgroup", "0::/slice/app\n");
  root.write("sys/fs/cgroup/slice/memory.max", "5368709120\n");  // 5 GiB, nearly full
  root.write("sys/fs/cgroup/slice/memory.current", "5268709120\n");
  root.write("sys/fs/cgroup/slice/app/memory.max", "1073741824\n");  // 1 GiB, empty
  root.write("sys/fs/cgroup/slice/app/memory.current", "4096\n");
  const HostMemory memory = probe_host_memory(root.path());
  EXPECT_EQ(memory.cgroup_limit, 5 * kGiB);
  EXPECT_EQ(memory.cgroup_used, 5268709120);
  const auto group = find_memory_group(root.path());
  ASSERT_TRUE(group);
  EXPECT_EQ(group->usage_file, root / "sys/fs/cgroup/slice/memory.current");
  EXPECT_EQ(group->pressure_file, root / "sys/fs/cgroup/slice/memory.pressure");
}

TEST(ProbeHostMemory, AddressSpaceLessWhatIsMappedAndStacksToCome) {
  TempFolder root;
  const std::int64_t page = sysconf(_SC_PAGESIZE);
  root.write("proc/self/statm", std::to_string(kGiB / page) + " 1 2 3 0 4 0\n");
  EXPECT_FALSE(probe_host_memory(root.path()).address_space_left);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_AS, &before), 0);
  if (before.rlim_max != RLIM_INFINITY) GTEST_SKIP() << "a hard limit is set already";
  // So large that nothing in this process notices.
  const rlimit limited{.rlim_cur = std::uint64_t{1} << 50, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_AS, &limited), 0);
  const auto left = probe_host_memory(root.path()).address_space_left;
  ASSERT_EQ(setrlimit(RLIMIT_AS, &before), 0);
  ASSERT_TRUE(left);
  EXPECT_LT(*left, (std::int64_t{1} << 50) - kGiB);
  EXPECT_GT(*left, (std::int64_t{1} << 50) - 200 * kGiB);  // stacks of all cores
}

TEST(ProbeHostMemory, ContainerSeesItsGroupAsTheRoot) {
  TempFolder root;
  root.write("proc/self/cgroup", "0::/docker/0123abcd\n");
  root.write("sys/fs/cgroup/memory.max", "3221225472\n");
  root.write("sys/fs/cgroup/memory.current", "12345\n");
  const HostMemory memory = probe_host_memory(root.path());
  EXPECT_EQ(memory.cgroup_limit, 3 * kGiB);
  EXPECT_EQ(memory.cgroup_used, 12345);
}

TEST(ProbeHostMemory, PathsOutsideTheNamespaceStartAtTheRoot) {
  TempFolder root;
  root.write("proc/self/cgroup", "0::/../../elsewhere\n");
  root.write("sys/fs/cgroup/memory.max", "1073741824\n");
  EXPECT_EQ(probe_host_memory(root.path()).cgroup_limit, kGiB);
}

TEST(ProbeHostMemory, ThisMachine) {
  const HostMemory memory = probe_host_memory();
  EXPECT_GT(memory.total, 0);
  EXPECT_GT(memory.available, 0);
  EXPECT_LE(memory.available, memory.total);
}

TEST(ProbeDisk, NearestExistingParent) {
  TempFolder folder;
  const auto there = probe_disk(folder.path());
  const auto below = probe_disk(folder.path() / "not" / "yet" / "there.png");
  ASSERT_TRUE(there);
  ASSERT_TRUE(below);
  EXPECT_GT(there->total, 0);
  EXPECT_EQ(there->total, below->total);
}

TEST(PhysicalCores, RespectsAffinity) {
  int cores = 0;
  std::thread([&cores] {  // affinity belongs to a thread: this one is thrown away
    cpu_set_t set;
    ASSERT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
    int first = 0;
    while (!CPU_ISSET(first, &set)) ++first;
    CPU_ZERO(&set);
    CPU_SET(first, &set);
    ASSERT_EQ(sched_setaffinity(0, sizeof(set), &set), 0);
    cores = physical_cores();
  })
      .join();
  EXPECT_EQ(cores, 1);
}

TEST(PhysicalCores, ThreadsOfOneCoreCountOnce) {
  TempFolder root;
  const int separate = physical_cores(root.path());  // no topology: every CPU is a core
  cpu_set_t set;
  ASSERT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
  EXPECT_EQ(separate, CPU_COUNT(&set));
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &set)) continue;
    root.write(
        "sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list",
        "0-1023\n");
  }
  EXPECT_EQ(physical_cores(root.path()), 1);
}

}  // namespace
}  // namespace steadyflux
