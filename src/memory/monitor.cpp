#include "memory/monitor.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>
#include <string>
#include <system_error>
#include <thread>

#include "memory/proc_text.h"

namespace steadyflux {
namespace {

constexpr std::chrono::milliseconds kSampleInterval{5};  // reading the file takes about 0.03 ms

std::int64_t major_faults() {
  rusage usage{};
  return getrusage(RUSAGE_SELF, &usage) == 0 ? usage.ru_majflt : 0;
}

std::int64_t kib_of(const std::string& status, std::string_view key) {
  return number_after(status, key).value_or(0) * 1024;
}

std::string read_status(const std::filesystem::path& root) {
  return read_small_file(root / "proc/self/status").value_or("");
}

// Sets VmHWM back to the present RSS; false where the kernel has no such thing or forbids it.
bool reset_high_water_mark(const std::filesystem::path& root) {
  const int fd = ::open((root / "proc/self/clear_refs").c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool written = ::write(fd, "5", 1) == 1;
  ::close(fd);
  return written;
}

}  // namespace

MemorySample sample_process_memory(const std::filesystem::path& root) {
  const std::string status = read_status(root);
  MemorySample sample;
  sample.rss = kib_of(status, "VmRSS:");
  sample.rss_anon = kib_of(status, "RssAnon:");
  sample.rss_file = kib_of(status, "RssFile:") + kib_of(status, "RssShmem:");
  sample.swap = kib_of(status, "VmSwap:");
  sample.major_faults = major_faults();
  return sample;
}

struct MemoryWatch::State {
  std::filesystem::path root;
  bool high_water_mark_reset = false;
  std::int64_t faults_before = 0;
  bool stopped = false;
  std::thread thread;

  std::mutex mutex;  // guards what follows
  std::condition_variable wake;
  bool stop_asked = false;
  MemoryPeaks peaks;

  // Runs in a thread and in a destructor, where nothing may be thrown: reading /proc takes memory,
  // and memory may be what just ran out. A sample is lost then.
  void take_sample() noexcept {
    try {
      const MemorySample sample = sample_process_memory(root);
      peaks.rss = std::max(peaks.rss, sample.rss);
      peaks.rss_anon = std::max(peaks.rss_anon, sample.rss_anon);
      peaks.rss_file = std::max(peaks.rss_file, sample.rss_file);
      peaks.swap = std::max(peaks.swap, sample.swap);
    } catch (const std::bad_alloc&) {
    }
  }

  void take_high_water_mark() noexcept {
    if (!high_water_mark_reset) return;
    try {
      peaks.rss = std::max(peaks.rss, kib_of(read_status(root), "VmHWM:"));
    } catch (const std::bad_alloc&) {
    }
  }

  void run() {
    std::unique_lock lock(mutex);
    while (!wake.wait_for(lock, kSampleInterval, [this] { return stop_asked; })) take_sample();
  }

  // Signals stay with the thread that handles them: the sampler is born with all of them blocked.
  void start_thread() {
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      thread = std::thread([this] { run(); });
    } catch (const std::system_error&) {
      // No thread to be had: the samples at the two ends and VmHWM remain.
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
};

MemoryWatch::MemoryWatch(const std::filesystem::path& root) : state_(std::make_unique<State>()) {
  state_->root = root;
  state_->high_water_mark_reset = reset_high_water_mark(root);
  state_->faults_before = major_faults();
  state_->take_sample();
  state_->start_thread();
}

MemoryWatch::~MemoryWatch() { stop(); }

MemoryPeaks MemoryWatch::stop() {
  State& state = *state_;
  if (state.stopped) return state.peaks;
  state.stopped = true;
  if (state.thread.joinable()) {
    {
      const std::lock_guard lock(state.mutex);
      state.stop_asked = true;
    }
    state.wake.notify_one();
    state.thread.join();
  }
  state.take_sample();
  state.take_high_water_mark();
  state.peaks.major_faults = major_faults() - state.faults_before;
  return state.peaks;
}

}  // namespace steadyflux
