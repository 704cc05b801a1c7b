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
  std::optional<std::int64_t> cgroup_limit;  // smallest limit on the way to the root, if any
  // Used in the group with that limit, less the file cache that the kernel would drop first
  // (inactive_file): a model file that was once read does not count as used.
  std::optional<std::int64_t> cgroup_used;
};

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
