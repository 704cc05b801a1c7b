#include "memory/pressure.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/bytes.h"

namespace steadyflux {

std::optional<double> PressureDetector::Rate::check(double seconds, std::int64_t new_count) {
  const double length = begun ? seconds - begin : 0;
  if (begun && length < kWindow) return std::nullopt;
  const double rate = begun ? static_cast<double>(new_count - count) / length : 0;
  high_seconds = begun && rate >= limit ? high_seconds + length : 0;
  begun = true;
  begin = seconds;
  count = new_count;
  return high_seconds >= kSustained ? std::optional(rate) : std::nullopt;
}

void PressureDetector::Rate::restart() {
  begun = false;
  high_seconds = 0;
}

void PressureDetector::phase_started() {
  first_pass_done_ = false;
  faults_.restart();
  unplanned_reads_.restart();
}

void PressureDetector::first_pass_done() { first_pass_done_ = true; }

std::optional<std::string> PressureDetector::check(const MemorySample& sample,
                                                   std::optional<std::int64_t> planned_reads) {
  if (!begun_) {
    begun_ = true;
    alloc_retries_ = sample.device.alloc_retries;
    lowest_swap_ = sample.swap;
    if (sample.stall && sample.stall->full_avg10 >= kFullStall) {
      stall_quiet_until_ = sample.seconds + kHostCoolDown;  // the average is still that of before
    }
  }
  auto reason = check_device(sample);
  return reason ? reason : check_host(sample, planned_reads);
}

std::optional<std::string> PressureDetector::check_device(const MemorySample& sample) {
  const std::int64_t retries = sample.device.alloc_retries - alloc_retries_;
  alloc_retries_ = sample.device.alloc_retries;
  if (retries <= 0 || sample.seconds < device_quiet_until_) return std::nullopt;
  device_quiet_until_ = sample.seconds + kDeviceCoolDown;
  return fmt::format(
      "the device's memory ran full: its allocator emptied its cache and tried again, {} time{}",
      retries, retries == 1 ? "" : "s");
}

std::optional<std::string> PressureDetector::check_host(const MemorySample& sample,
                                                        std::optional<std::int64_t> planned_reads) {
  if (sample.seconds < host_quiet_until_) {
    lowest_swap_ = sample.swap;  // what comes later is compared with the end of the cool-down
    return std::nullopt;
  }
  const auto swap_ins = swap_ins_.check(sample.seconds, sample.swapped_in);
  std::optional<double> faults;  // both are counted from the first check after the first pass
  std::optional<double> reads;
  if (first_pass_done_) {
    faults = faults_.check(sample.seconds, sample.major_faults);
    if (planned_reads) {
      const std::int64_t planned = *planned_reads + *planned_reads / 20;
      reads = unplanned_reads_.check(sample.seconds, sample.disk_read - planned);
    }
  }
  lowest_swap_ = std::min(lowest_swap_, sample.swap);
  const std::int64_t swapped = sample.swap - lowest_swap_;
  const double stalled = sample.stall ? sample.stall->full_avg10 : 0;

  std::string reason;
  if (swapped >= kSwapGrowth) {
    reason = fmt::format("the system has moved {} of this process to swap", format_bytes(swapped));
  } else if (swap_ins) {
    reason = fmt::format("the system swaps: {} a second come back from swap",
                         format_bytes(static_cast<std::int64_t>(*swap_ins)));
  } else if (faults) {
    reason = fmt::format(
        "memory that was read from files already is read again: {:.0f} major faults a second",
        *faults);
  } else if (reads) {
    reason = fmt::format("memory that was read from files already is read again: {} a second",
                         format_bytes(static_cast<std::int64_t>(*reads)));
  } else if (stalled >= kFullStall && sample.seconds >= stall_quiet_until_) {
    reason =
        fmt::format("all tasks stood still for want of memory, {:.0f} % of the last 10 s", stalled);
  } else {
    return std::nullopt;
  }
  host_quiet_until_ = sample.seconds + kHostCoolDown;
  lowest_swap_ = sample.swap;
  swap_ins_.restart();
  faults_.restart();
  unplanned_reads_.restart();
  return reason;
}

}  // namespace steadyflux
