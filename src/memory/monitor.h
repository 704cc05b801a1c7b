// Watches memory while pictures are made: one thread samples this process, the machine and (through
// a function it is given) the device, and keeps a timeline over the phases. Torch-free. What the
// samples mean is judged in pressure.h, and drawn by memory_report.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "memory/timeline.h"

namespace steadyflux {

// The fields of this process, from `root`/proc/self and getrusage. Where there is no /proc, all but
// the faults is 0.
MemorySample sample_process_memory(const std::filesystem::path& root = "/");

struct MonitorOptions {
  std::filesystem::path root = "/";
  // Called by the sampling thread and by those that call the monitor, one at a time. What it throws
  // costs that sample its device numbers.
  std::function<DeviceSample()> device = {};
};

// Samples every 5 ms while a phase is young and less often later, at most every 250 ms. Of a long
// run the timeline keeps at most about kMaxSamples samples: neighbours are merged into one with the
// larger of their sizes. The peaks of phases are taken from all samples; that of RSS is exact where
// the kernel lets VmHWM be reset. One monitor at a time: a second one resets VmHWM under the first.
class MemoryMonitor {
 public:
  static constexpr std::size_t kMaxSamples = 4000;

  explicit MemoryMonitor(MonitorOptions options = {});
  ~MemoryMonitor();
  MemoryMonitor(const MemoryMonitor&) = delete;
  MemoryMonitor& operator=(const MemoryMonitor&) = delete;

  // A phase that still runs is finished first.
  void phase_started(const std::string& name, std::int64_t predicted_ram = 0,
                     std::int64_t predicted_device = 0);
  MemoryPeaks phase_finished();  // zeros if no phase runs
  void note(const std::string& text);

  MemorySample sample_now();  // all of it fresh; part of the timeline as well
  MemoryTimeline timeline() const;
  void stop();  // ends a running phase and the thread; the timeline stays

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// One phase on its own.
class MemoryWatch {
 public:
  explicit MemoryWatch(const std::filesystem::path& root = "/");
  // Ends the watch and gives its peaks; a second call gives the same again.
  MemoryPeaks stop();

 private:
  MemoryMonitor monitor_;
  std::optional<MemoryPeaks> peaks_;
};

}  // namespace steadyflux
