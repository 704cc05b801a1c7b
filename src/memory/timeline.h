// What was seen of memory while pictures were made: samples over time, the phases with their peaks.
// Plain values, made by monitor.h, judged by pressure.h, drawn by memory_report.h; and the rules by
// which the timeline of a run of any length stays small.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace steadyflux {

// Of the device's allocator. The peaks are those since it was last told to forget them, which the
// caller does right before phase_started(); they are read when the phase ends. 0: not known.
struct DeviceSample {
  std::int64_t allocated = 0;  // bytes
  std::int64_t reserved = 0;   // bytes
  std::int64_t peak_allocated = 0;
  std::int64_t peak_reserved = 0;
  std::int64_t alloc_retries = 0;  // times it ran full and tried again, since the process began
};

// PSI: shares of time in which tasks waited for memory. Of the control group with the tightest
// limit where the kernel has that, else of the machine.
struct StallSample {
  double some_avg10 = 0;        // percent of the last 10 s, at least one task
  double full_avg10 = 0;        // percent of the last 10 s, all tasks
  std::int64_t some_total = 0;  // microseconds
  std::int64_t full_total = 0;  // microseconds
};

struct MemorySample {
  double seconds = 0;  // since the monitor began
  int phase = -1;      // index into MemoryTimeline::phases; -1 between phases
  // This process.
  std::int64_t rss = 0;           // bytes
  std::int64_t rss_anon = 0;      // bytes
  std::int64_t rss_file = 0;      // bytes, shared memory included
  std::int64_t swap = 0;          // bytes of this process in swap
  std::int64_t major_faults = 0;  // since the process began
  std::int64_t disk_read = 0;     // bytes that came from a disk, since the process began
  // The machine.
  std::int64_t available = 0;               // MemAvailable
  std::optional<std::int64_t> cgroup_used;  // of a group with a limit, all file cache included
  std::int64_t swapped_in = 0;              // bytes since boot, all processes
  std::int64_t swapped_out = 0;
  std::optional<StallSample> stall;

  DeviceSample device;
};

struct MemoryPeaks {
  std::int64_t rss = 0;
  std::int64_t rss_anon = 0;
  std::int64_t rss_file = 0;
  std::int64_t swap = 0;
  std::int64_t device_allocated = 0;
  std::int64_t device_reserved = 0;
  // What came about during the phase.
  std::int64_t major_faults = 0;
  std::int64_t disk_read = 0;
  std::int64_t swapped_in = 0;
  std::int64_t swapped_out = 0;
  std::int64_t alloc_retries = 0;
};

struct PhaseRecord {
  std::string name;
  double start = 0;                   // seconds
  double end = 0;                     // of the last sample while it runs
  std::int64_t predicted_ram = 0;     // peaks of the plan in bytes; 0: none
  std::int64_t predicted_device = 0;  // without the context, as the device's allocator counts
  MemoryPeaks peaks = {};
};

// Something worth a mark: a new plan, pressure.
struct MemoryEvent {
  double seconds = 0;
  std::string text;
};

struct MemoryTimeline {
  double seconds = 0;  // from beginning to end
  std::vector<MemorySample> samples;
  std::vector<PhaseRecord> phases;
  std::vector<MemoryEvent> events;
  // For the report; whoever has the plan fills them in.
  std::string title;
  std::int64_t ram_budget = 0;     // bytes of RSS; 0: none
  std::int64_t device_budget = 0;  // bytes, without the context
};

// Merges two neighbouring samples: the larger sizes, the later counters, the smaller `available`,
// the time and phase of the earlier one.
MemorySample merge_samples(const MemorySample& earlier, const MemorySample& later);

// Adds a sample, later than all there are. It is merged into the last one if that is of the same
// phase and closer than `resolution` (seconds, 0 at first); when there are more than `max_samples`,
// the resolution grows and the samples that now lie too close are merged. A short phase among long
// ones keeps some 60 samples as long as there is room.
void add_sample(MemoryTimeline& timeline, const MemorySample& sample, double& resolution,
                std::size_t max_samples);

// Puts `next`, what was seen afterwards and timed from its own beginning, behind `timeline`. Title
// and budgets become those of `next`.
void append_timeline(MemoryTimeline& timeline, MemoryTimeline next);

}  // namespace steadyflux
