// What this machine and this process may use: RAM, cgroup limit (v1 and v2), swap, disk.
// Paths are given, so that tests run on made-up /proc and cgroup trees.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace steadyflux {

struct HostMemory {
  std::int64_t total = 0;      // MemTotal, bytes
  std::int64_t available = 0;  // MemAvailable, bytes
  std::int64_t swap_total = 0;
  std::int64_t swap_free = 0;
  // Of all control groups on the way to the root, the one that leaves least, if any has a limit.
  std::optional<std::int64_t> cgroup_limit;
  std::optional<std::int64_t> cgroup_used;
  // Of RLIMIT_AS (`ulimit -v`), if it is set, what the process has not mapped yet, less the stacks
  // of the threads that it is going to start.
  std::optional<std::int64_t> address_space_left;
};

struct MemoryGroup {
  std::int64_t limit = 0;
  // Less the file cache that the kernel would drop first (inactive_file): a model file that was
  // once read does not count as used.
  std::optional<std::int64_t> used;
  std::filesystem::path usage_file;     // bytes used, all file cache included
  std::filesystem::path pressure_file;  // memory.pressure of v2; may not exist
};
// The group that sets cgroup_limit.
std::optional<MemoryGroup> find_memory_group(const std::filesystem::path& root = "/");

// `root` is "/" outside tests: root/proc/meminfo, root/proc/self/cgroup, root/sys/fs/cgroup.
HostMemory probe_host_memory(const std::filesystem::path& root = "/");

struct DiskSpace {
  std::int64_t total = 0;
  std::int64_t available = 0;
};
// Of the file system that holds `path` (or its nearest existing parent).
std::optional<DiskSpace> probe_disk(const std::filesystem::path& path);

// Physical cores this thread may run on (affinity respected); at least 1. Reads
// root/sys/devices/system/cpu; a CPU whose topology is not told counts as a core of its own.
int physical_cores(const std::filesystem::path& root = "/");

}  // namespace steadyflux
