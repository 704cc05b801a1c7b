// Watches this process's memory while a phase runs: peak RSS (anonymous and file-backed apart),
// major faults, swap. Torch-free; device peaks are added by the pipeline.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

namespace steadyflux {

struct MemorySample {
  std::int64_t rss = 0;           // bytes
  std::int64_t rss_anon = 0;      // bytes
  std::int64_t rss_file = 0;      // bytes, shared memory included
  std::int64_t swap = 0;          // bytes of this process in swap
  std::int64_t major_faults = 0;  // since the process began
};

// From `root`/proc/self/status and getrusage. Where there is no /proc, all but the faults is 0.
MemorySample sample_process_memory(const std::filesystem::path& root = "/");

struct MemoryPeaks {
  std::int64_t rss = 0;
  std::int64_t rss_anon = 0;
  std::int64_t rss_file = 0;
  std::int64_t swap = 0;
  std::int64_t major_faults = 0;  // during the watch
};

// Begins to watch when made (VmHWM is reset, a thread samples every few milliseconds). The rss peak
// is exact where the kernel lets VmHWM be reset; the other peaks are those of the samples. One
// watch at a time: a second one resets VmHWM under the first, which then has its samples only.
class MemoryWatch {
 public:
  explicit MemoryWatch(const std::filesystem::path& root = "/");
  ~MemoryWatch();
  MemoryWatch(const MemoryWatch&) = delete;
  MemoryWatch& operator=(const MemoryWatch&) = delete;
  // Ends the watch and gives its peaks; a second call gives the same again.
  MemoryPeaks stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace steadyflux
