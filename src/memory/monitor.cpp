#include "memory/monitor.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "base/quiet_thread.h"
#include "memory/probe.h"
#include "memory/proc_text.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// Reading the process's own file takes about 0.03 ms, all files 0.16 ms.
constexpr Clock::duration kShortestInterval = milliseconds(5);
constexpr Clock::duration kLongestInterval = milliseconds(250);
constexpr int kSamplesOfAnAge = 200;  // the interval is the phase's age divided by this
constexpr Clock::duration kMachineInterval = milliseconds(50);

Clock::duration interval_at(Clock::duration age) {
  return std::clamp(age / kSamplesOfAnAge, kShortestInterval, kLongestInterval);
}

std::int64_t major_faults() {
  rusage usage{};
  return getrusage(RUSAGE_SELF, &usage) == 0 ? usage.ru_majflt : 0;
}

std::int64_t kib_of(const std::string& text, std::string_view key) {
  return number_after(text, key).value_or(0) * 1024;
}

std::string text_of(const fs::path& path) { return read_small_file(path).value_or(""); }

// Sets VmHWM back to the present RSS; false where the kernel has no such thing or forbids it.
bool reset_high_water_mark(const fs::path& root) {
  const int fd = ::open((root / "proc/self/clear_refs").c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool written = ::write(fd, "5", 1) == 1;
  ::close(fd);
  return written;
}

// The number after "KEY=" in one line of a PSI file.
template <typename Number>
bool take_value(std::string_view line, std::string_view key, Number& value) {
  const std::size_t at = line.find(key);
  if (at == std::string_view::npos) return false;
  const char* begin = line.data() + at + key.size();
  return std::from_chars(begin, line.data() + line.size(), value).ec == std::errc();
}

// "some avg10=0.00 avg60=0.00 avg300=0.00 total=0", and a line with "full" after it.
std::optional<StallSample> read_stall(const fs::path& path) {
  const auto text = read_small_file(path);
  if (!text) return std::nullopt;
  const std::string_view all = *text;
  const std::size_t newline = std::min(all.find('\n'), all.size());
  const std::string_view some = all.substr(0, newline);
  const std::string_view full = all.substr(newline);
  StallSample stall;
  const bool complete = take_value(some, " avg10=", stall.some_avg10) &&
                        take_value(some, " total=", stall.some_total) &&
                        take_value(full, " avg10=", stall.full_avg10) &&
                        take_value(full, " total=", stall.full_total);
  return complete ? std::optional(stall) : std::nullopt;
}

void read_process(const fs::path& root, MemorySample& sample) {
  const std::string status = text_of(root / "proc/self/status");
  sample.rss = kib_of(status, "VmRSS:");
  sample.rss_anon = kib_of(status, "RssAnon:");
  sample.rss_file = kib_of(status, "RssFile:") + kib_of(status, "RssShmem:");
  sample.swap = kib_of(status, "VmSwap:");
  sample.major_faults = major_faults();
}

void read_disk_bytes(const fs::path& root, MemorySample& sample) {
  sample.disk_read = number_after(text_of(root / "proc/self/io"), "read_bytes:").value_or(0);
}

}  // namespace

MemorySample sample_process_memory(const fs::path& root) {
  MemorySample sample;
  read_process(root, sample);
  read_disk_bytes(root, sample);
  return sample;
}

struct MemoryMonitor::State {
  MonitorOptions options;
  std::optional<MemoryGroup> group;
  fs::path stall_file;
  std::int64_t page_bytes = sysconf(_SC_PAGESIZE);
  Clock::time_point begin = Clock::now();
  std::thread thread;

  std::mutex mutex;  // guards what follows
  std::condition_variable wake;
  bool stop_asked = false;
  bool phase_changed = false;
  bool stopped = false;

  MemoryTimeline timeline;
  double resolution = 0;
  MemorySample last;  // as it was taken, not merged
  Clock::time_point machine_read;
  Clock::time_point phase_begin = begin;  // or when the last one ended
  int phase = -1;
  bool high_water_mark_reset = false;
  MemorySample at_phase_start;

  explicit State(MonitorOptions given) : options(std::move(given)) {
    group = find_memory_group(options.root);
    const auto of_group = group ? read_stall(group->pressure_file) : std::nullopt;
    stall_file = of_group ? group->pressure_file : options.root / "proc/pressure/memory";
    timeline.samples.reserve(kMaxSamples + 1);
  }

  double seconds_at(Clock::time_point time) const {
    return std::chrono::duration<double>(time - begin).count();
  }

  void read_machine(MemorySample& sample) const {
    read_disk_bytes(options.root, sample);
    sample.available = kib_of(text_of(options.root / "proc/meminfo"), "MemAvailable:");
    const std::string vmstat = text_of(options.root / "proc/vmstat");
    sample.swapped_in = number_after(vmstat, "pswpin ").value_or(0) * page_bytes;
    sample.swapped_out = number_after(vmstat, "pswpout ").value_or(0) * page_bytes;
    if (group) sample.cgroup_used = leading_number(text_of(group->usage_file));
    sample.stall = read_stall(stall_file);
  }

  void read_device(MemorySample& sample) const noexcept {
    if (!options.device) return;
    try {
      sample.device = options.device();
    } catch (...) {  // a device in a bad way: the work itself will meet it and tell
    }
  }

  // Runs in a thread and in a destructor, where nothing may be thrown: reading /proc takes memory,
  // and memory may be what just ran out. A sample is lost then.
  void take_sample(bool whole) noexcept {
    try {
      const auto now = Clock::now();
      MemorySample sample = last;
      sample.seconds = seconds_at(now);
      sample.phase = phase;
      read_process(options.root, sample);
      if (whole || now - machine_read >= kMachineInterval) {
        read_machine(sample);
        machine_read = now;
      }
      read_device(sample);
      last = sample;
      if (phase >= 0) record_peaks();
      add_sample(timeline, sample, resolution, kMaxSamples);
    } catch (const std::exception&) {
    }
  }

  PhaseRecord& record() { return timeline.phases[static_cast<std::size_t>(phase)]; }

  void record_peaks() {
    MemoryPeaks& peaks = record().peaks;
    record().end = last.seconds;
    peaks.rss = std::max(peaks.rss, last.rss);
    peaks.rss_anon = std::max(peaks.rss_anon, last.rss_anon);
    peaks.rss_file = std::max(peaks.rss_file, last.rss_file);
    peaks.swap = std::max(peaks.swap, last.swap);
    peaks.device_allocated = std::max(peaks.device_allocated, last.device.allocated);
    peaks.device_reserved = std::max(peaks.device_reserved, last.device.reserved);
    peaks.major_faults = last.major_faults - at_phase_start.major_faults;
    peaks.disk_read = last.disk_read - at_phase_start.disk_read;
    peaks.swapped_in = last.swapped_in - at_phase_start.swapped_in;
    peaks.swapped_out = last.swapped_out - at_phase_start.swapped_out;
    peaks.alloc_retries = last.device.alloc_retries - at_phase_start.device.alloc_retries;
  }

  void take_high_water_marks() noexcept {
    MemoryPeaks& peaks = record().peaks;
    peaks.device_allocated = std::max(peaks.device_allocated, last.device.peak_allocated);
    peaks.device_reserved = std::max(peaks.device_reserved, last.device.peak_reserved);
    if (!high_water_mark_reset) return;
    try {
      const std::string status = text_of(options.root / "proc/self/status");
      peaks.rss = std::max(peaks.rss, kib_of(status, "VmHWM:"));
    } catch (const std::exception&) {  // no memory for it: the samples remain
    }
  }

  void begin_phase(PhaseRecord record) {
    take_sample(true);
    at_phase_start = last;
    high_water_mark_reset = reset_high_water_mark(options.root);
    record.start = record.end = seconds_at(Clock::now());
    timeline.phases.push_back(std::move(record));
    phase = static_cast<int>(timeline.phases.size()) - 1;
    phase_begin = Clock::now();
    phase_changed = true;
    take_sample(false);
  }

  MemoryPeaks end_phase() noexcept {
    if (phase < 0) return {};
    take_sample(true);
    take_high_water_marks();
    record().end = seconds_at(Clock::now());
    const MemoryPeaks peaks = record().peaks;
    phase = -1;
    phase_begin = Clock::now();
    phase_changed = true;
    return peaks;
  }

  void run() {
    std::unique_lock lock(mutex);
    while (!stop_asked) {
      phase_changed = false;
      const auto interval = interval_at(Clock::now() - phase_begin);
      const auto sooner = [this] { return stop_asked || phase_changed; };
      if (!wake.wait_for(lock, interval, sooner)) take_sample(false);
    }
  }

  void start_thread() {
    try {
      thread = start_quiet_thread([this] { run(); });
    } catch (const std::system_error&) {
      // No thread to be had: the samples at the ends of the phases and VmHWM remain.
    }
  }
};

MemoryMonitor::MemoryMonitor(MonitorOptions options)
    : state_(std::make_unique<State>(std::move(options))) {
  state_->take_sample(true);
  state_->start_thread();
}

MemoryMonitor::~MemoryMonitor() { stop(); }

void MemoryMonitor::phase_started(const std::string& name, std::int64_t predicted_ram,
                                  std::int64_t predicted_device) {
  PhaseRecord record;
  record.name = name;
  record.predicted_ram = predicted_ram;
  record.predicted_device = predicted_device;
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->stopped) return;
    state_->end_phase();
    state_->begin_phase(std::move(record));
  }
  state_->wake.notify_one();
}

MemoryPeaks MemoryMonitor::phase_finished() {
  const std::lock_guard lock(state_->mutex);
  return state_->end_phase();
}

void MemoryMonitor::note(const std::string& text) {
  const std::lock_guard lock(state_->mutex);
  state_->timeline.events.push_back({state_->seconds_at(Clock::now()), text});
}

MemorySample MemoryMonitor::sample_now() {
  const std::lock_guard lock(state_->mutex);
  if (!state_->stopped) state_->take_sample(true);
  return state_->last;
}

MemoryTimeline MemoryMonitor::timeline() const {
  const std::lock_guard lock(state_->mutex);
  MemoryTimeline timeline = state_->timeline;
  if (!state_->stopped) timeline.seconds = state_->seconds_at(Clock::now());
  return timeline;
}

void MemoryMonitor::stop() {
  State& state = *state_;
  {
    const std::lock_guard lock(state.mutex);
    if (state.stopped) return;
    state.end_phase();
    state.timeline.seconds = state.seconds_at(Clock::now());
    state.stopped = true;
    state.stop_asked = true;
  }
  state.wake.notify_one();
  if (state.thread.joinable()) state.thread.join();
}

MemoryWatch::MemoryWatch(const fs::path& root) : monitor_({.root = root}) {
  monitor_.phase_started("watch");
}

MemoryPeaks MemoryWatch::stop() {
  if (!peaks_) {
    peaks_ = monitor_.phase_finished();
    monitor_.stop();
  }
  return *peaks_;
}

}  // namespace steadyflux
