#include "memory/probe.h"

#include <algorithm>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>
#if defined(__linux__)
#include <sched.h>
#endif
#include <sys/resource.h>
#include <unistd.h>

#include "memory/proc_text.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

// cgroup v1 writes "no limit" as the largest multiple of the page size; nobody has 1 EiB.
constexpr std::int64_t kNoLimit = std::int64_t{1} << 60;

struct Hierarchy {  // the file names of one cgroup version
  const char* limit;
  const char* used;
  const char* inactive_file;  // key in memory.stat
};
constexpr Hierarchy kV1{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "};
constexpr Hierarchy kV2{"memory.max", "memory.current", "inactive_file "};

std::optional<std::int64_t> number_in(const fs::path& path) {
  const auto text = read_small_file(path);
  return text ? leading_number(*text) : std::nullopt;  // "max" is no number: no limit
}

std::int64_t left(const MemoryGroup& group) { return group.limit - group.used.value_or(0); }

// Looks at the group and all its parents up to the mount. A container may see its own group as the
// mount's root while /proc names the path outside: folders that do not exist are passed over.
void apply_limits(const fs::path& mount, std::string_view path, const Hierarchy& names,
                  std::optional<MemoryGroup>& tightest) {
  fs::path relative = fs::path(path).relative_path().lexically_normal();
  if (!relative.empty() && *relative.begin() == "..") relative.clear();
  while (true) {
    const fs::path folder = mount / relative;
    const auto limit = number_in(folder / names.limit);
    if (limit && *limit < kNoLimit) {
      MemoryGroup group{*limit, number_in(folder / names.used), folder / names.used,
                        folder / "memory.pressure"};
      const auto stat = read_small_file(folder / "memory.stat");
      if (group.used && stat) {
        const std::int64_t cache = number_after(*stat, names.inactive_file).value_or(0);
        group.used = std::max<std::int64_t>(0, *group.used - cache);
      }
      if (!tightest || left(group) < left(*tightest)) tightest = std::move(group);
    }
    if (relative.empty()) return;
    relative = relative.parent_path();
  }
}

bool has_controller(std::string_view list, std::string_view name) {
  while (!list.empty()) {
    const std::size_t comma = list.find(',');
    if (list.substr(0, comma) == name) return true;
    if (comma == std::string_view::npos) break;
    list.remove_prefix(comma + 1);
  }
  return false;
}

std::vector<int> allowed_cpus() {
  std::vector<int> cpus;
#if defined(__linux__)
  for (int capacity = 1024; capacity <= 1 << 18 && cpus.empty(); capacity *= 4) {
    cpu_set_t* set = CPU_ALLOC(capacity);
    if (set == nullptr) return cpus;
    const std::size_t size = CPU_ALLOC_SIZE(capacity);
    CPU_ZERO_S(size, set);
    if (sched_getaffinity(0, size, set) == 0) {
      for (int cpu = 0; cpu < capacity; ++cpu) {
        if (CPU_ISSET_S(static_cast<std::size_t>(cpu), size, set)) cpus.push_back(cpu);
      }
    }
    CPU_FREE(set);
  }
#endif
  return cpus;
}

// libgomp ends the process when it cannot start a thread, and oneDNN does not look whether its own
// small allocations succeeded: an address space that is nearly full has to be known beforehand.
std::optional<std::int64_t> address_space_left(const fs::path& root) {
  rlimit space{};
  if (getrlimit(RLIMIT_AS, &space) != 0 || space.rlim_cur == RLIM_INFINITY) return std::nullopt;
  const auto pages = number_in(root / "proc/self/statm");  // the first number: VmSize
  if (!pages) return std::nullopt;
  constexpr std::int64_t kUsualStack = std::int64_t{8} << 20;
  rlimit stack{};
  const bool known = getrlimit(RLIMIT_STACK, &stack) == 0 && stack.rlim_cur != RLIM_INFINITY;
  const std::int64_t stack_size = known ? static_cast<std::int64_t>(stack.rlim_cur) : kUsualStack;
  // One for each core, those that read ahead and watch the memory besides.
  const std::int64_t stacks = stack_size * (physical_cores(root) + 2);
  return static_cast<std::int64_t>(space.rlim_cur) - *pages * sysconf(_SC_PAGESIZE) - stacks;
}

}  // namespace

// Lines of /proc/self/cgroup are "id:controllers:path"; v2 is "0::path".
std::optional<MemoryGroup> find_memory_group(const fs::path& root) {
  std::optional<MemoryGroup> tightest;
  const auto text = read_small_file(root / "proc/self/cgroup");
  if (!text) return tightest;
  const fs::path mount = root / "sys/fs/cgroup";
  std::string_view rest = *text;
  while (!rest.empty()) {
    const std::size_t newline = rest.find('\n');
    const std::string_view line = rest.substr(0, newline);
    rest.remove_prefix(newline == std::string_view::npos ? rest.size() : newline + 1);
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first == std::string_view::npos ? first : first + 1);
    if (second == std::string_view::npos) continue;
    const std::string_view controllers = line.substr(first + 1, second - first - 1);
    const std::string_view path = line.substr(second + 1);
    if (has_controller(controllers, "memory")) {
      apply_limits(mount / "memory", path, kV1, tightest);
    } else if (controllers.empty()) {
      apply_limits(mount, path, kV2, tightest);
      apply_limits(mount / "unified", path, kV2, tightest);  // v2 beside v1
    }
  }
  return tightest;
}

HostMemory probe_host_memory(const fs::path& root) {
  HostMemory memory;
  const std::string text = read_small_file(root / "proc/meminfo").value_or("");
  const auto bytes = [&text](std::string_view key) {
    return number_after(text, key).value_or(0) * 1024;
  };
  memory.total = bytes("MemTotal:");
  memory.available = bytes("MemAvailable:");
  memory.swap_total = bytes("SwapTotal:");
  memory.swap_free = bytes("SwapFree:");
  if (const auto group = find_memory_group(root)) {
    memory.cgroup_limit = group->limit;
    memory.cgroup_used = group->used;
  }
  memory.address_space_left = address_space_left(root);
  return memory;
}

std::optional<DiskSpace> probe_disk(const fs::path& path) {
  std::error_code error;
  fs::path folder = fs::absolute(path, error);
  if (error) return std::nullopt;
  while (!fs::exists(folder, error) && folder != folder.parent_path()) {
    folder = folder.parent_path();
  }
  const fs::space_info space = fs::space(folder, error);
  if (error) return std::nullopt;
  return DiskSpace{.total = static_cast<std::int64_t>(space.capacity),
                   .available = static_cast<std::int64_t>(space.available)};
}

int physical_cores(const fs::path& root) {
  const std::vector<int> cpus = allowed_cpus();
  if (cpus.empty()) return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  std::set<std::string> cores;  // threads of one core name the same siblings
  for (const int cpu : cpus) {
    const std::string name = "cpu" + std::to_string(cpu);
    const fs::path topology = root / "sys/devices/system/cpu" / name / "topology";
    const auto siblings = read_small_file(topology / "thread_siblings_list");
    cores.insert(siblings ? *siblings : name);
  }
  return static_cast<int>(cores.size());
}

}  // namespace steadyflux
