// Says when memory has become scarce, from the samples of the monitor, before the machine crawls:
// this process is being swapped, the machine swaps, files that were read already are read again
// because their pages were taken away, tasks stand still for want of memory, or the device's
// allocator ran full. A pure function of the samples it was given.
#pragma once

#include <optional>
#include <string>

#include "memory/timeline.h"

namespace steadyflux {

class PressureDetector {
 public:
  // Of this process, swapped since the lowest point. The kernel puts away some MiB of start-up data
  // that is never needed again; that hurts nobody.
  static constexpr std::int64_t kSwapGrowth = std::int64_t{32} << 20;  // bytes
  // Of all processes. A desktop program that wakes up after hours swaps in for a second or two;
  // more than this on average is memory that is needed all the time.
  static constexpr double kSwapInRate = 8.0 * (1 << 20);  // bytes a second
  // What is read all over the place faults for every 128 KiB or less: 12 MiB a second.
  static constexpr double kFaultRate = 100;  // a second
  // What is read in order hardly faults at all, as the kernel reads ahead: there only the bytes
  // tell (700 MiB under a limit of 300 MiB: 1.5 GiB and 13 faults a second). Besides what the plan
  // reads on purpose, with a twentieth to spare.
  static constexpr double kUnplannedReadRate = 32.0 * (1 << 20);  // bytes a second
  // One second in ten in which nothing at all went on.
  static constexpr double kFullStall = 10;  // percent
  // Rates are taken over windows of at least this length, and must stay high for so long, in one
  // window or several. A burst is shorter: a program that comes to the front, a library's pages
  // that are touched for the first time, the moment after a re-plan.
  static constexpr double kWindow = 2;     // seconds
  static constexpr double kSustained = 5;  // seconds
  // How long nothing more is said of the same memory. A smaller plan takes effect at once on the
  // device; in RAM the ten-second average of stalls must fall first.
  static constexpr double kHostCoolDown = 20;   // seconds
  static constexpr double kDeviceCoolDown = 2;  // seconds

  // Until then, faults are weights that are mapped and read for the first time. Phases with other
  // weights begin anew.
  void phase_started();
  void first_pass_done();

  // To be called with every sample, or from time to time with the newest one, in order. The reason
  // in one line if memory is scarce, once; it is told again only if it goes on after the cool-down.
  // The first sample is what the others are compared with: pressure from before is not ours.
  // `planned_reads`: bytes that were read from disk on purpose so far, by whoever streams weights;
  // without it bytes are not judged.
  std::optional<std::string> check(const MemorySample& sample,
                                   std::optional<std::int64_t> planned_reads = std::nullopt);

 private:
  // A counter that may grow for a moment, but not for long.
  struct Rate {
    double limit = 0;  // a second
    bool begun = false;
    double begin = 0;  // of the window, seconds
    std::int64_t count = 0;
    double high_seconds = 0;  // for how long it has been at the limit or above
    // The rate, if it has been too high for long enough.
    std::optional<double> check(double seconds, std::int64_t new_count);
    void restart();
  };

  std::optional<std::string> check_device(const MemorySample& sample);
  std::optional<std::string> check_host(const MemorySample& sample,
                                        std::optional<std::int64_t> planned_reads);

  bool begun_ = false;
  bool first_pass_done_ = false;
  Rate swap_ins_{.limit = kSwapInRate};
  Rate faults_{.limit = kFaultRate};
  Rate unplanned_reads_{.limit = kUnplannedReadRate};
  std::int64_t lowest_swap_ = 0;
  std::int64_t alloc_retries_ = 0;
  double host_quiet_until_ = 0;  // seconds, as in the samples
  double stall_quiet_until_ = 0;
  double device_quiet_until_ = 0;
};

}  // namespace steadyflux
