#include "cli/event_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cmath>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "cli/progress_bar.h"
#include "steadyflux/error.h"

namespace steadyflux::cli {
namespace {

std::string reason(int error) { return std::generic_category().message(error); }

// "fd:3" or "3"; nothing for all that is not meant as a descriptor.
std::optional<int> descriptor_of(const std::string& spec) {
  constexpr std::string_view kPrefix = "fd:";
  if (spec == "-") return STDOUT_FILENO;
  const bool is_named = spec.compare(0, kPrefix.size(), kPrefix) == 0;
  const std::string_view number = std::string_view(spec).substr(is_named ? kPrefix.size() : 0);
  int fd = -1;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), fd);
  const bool is_number = error == std::errc() && end == number.data() + number.size() && fd >= 0;
  if (is_number) return fd;
  const bool only_digits = !number.empty() && std::all_of(number.begin(), number.end(), [](char c) {
    return c >= '0' && c <= '9';
  });
  if (is_named || only_digits) {
    throw Error(ErrorKind::kUsage,
                fmt::format("--events {}: no number of a file descriptor; say fd:3, or ./{} if a "
                            "file is meant",
                            spec, spec));
  }
  return std::nullopt;
}

// A copy, so that closing it leaves the caller's open.
int open_descriptor(int fd, const std::string& spec) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0) {
    throw Error(ErrorKind::kUsage,
                fmt::format("--events {}: file descriptor {} is not open", spec, fd));
  }
  if ((flags & O_ACCMODE) == O_RDONLY) {
    throw Error(ErrorKind::kUsage,
                fmt::format("--events {}: file descriptor {} is open for reading only", spec, fd));
  }
  const int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (copy < 0) {
    throw Error(ErrorKind::kIo, fmt::format("--events {}: {}", spec, reason(errno)));
  }
  return copy;
}

// Shared while a line is written, exclusive while someone looks whether the last line is whole: one
// that is on its way is not taken for one that was cut off. Where a file system has no locks, all
// goes on without.
class FileLock {
 public:
  FileLock(int fd, int operation) : fd_(fd) {
    int result = 0;
    do {
      result = ::flock(fd, operation);
    } while (result != 0 && errno == EINTR);
    is_held_ = result == 0;
  }
  ~FileLock() {
    if (is_held_) ::flock(fd_, LOCK_UN);
  }
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  bool is_held() const { return is_held_; }

 private:
  int fd_;
  bool is_held_ = false;
};

bool ends_in_the_middle(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return false;
  struct stat info {};
  char last = '\n';
  const bool has_last = ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0 &&
                        ::pread(fd, &last, 1, info.st_size - 1) == 1;
  ::close(fd);
  return has_last && last != '\n';
}

// The last line of a run that was killed, or that met a full disk, may have no end.
void end_last_line(int fd, const std::string& path) {
  const FileLock alone(fd, LOCK_EX | LOCK_NB);
  if (!alone.is_held() || !ends_in_the_middle(path)) return;
  // If this fails, so does the first event, which says so.
  if (::write(fd, "\n", 1) != 1) return;
}

int open_file(const std::string& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (fd < 0) {
    throw Error(ErrorKind::kIo,
                fmt::format("--events {}: cannot open for writing: {}", path, reason(errno)));
  }
  return fd;
}

double rounded(double seconds) { return std::round(seconds * 1000) / 1000; }

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

std::unique_ptr<EventLog> EventLog::open(const std::string& spec, Warn warn) {
  if (spec.empty()) {
    throw Error(ErrorKind::kUsage, "--events: give a file, or fd:3 for an open file descriptor");
  }
  const auto descriptor = descriptor_of(spec);
  const int fd = descriptor ? open_descriptor(*descriptor, spec) : open_file(spec);
  std::unique_ptr<EventLog> log(new EventLog(fd, spec, std::move(warn)));
  log->is_file_ = !descriptor;
  if (log->is_file_) end_last_line(fd, spec);
  return log;
}

EventLog::EventLog(int fd, std::string name, Warn warn)
    : fd_(fd), name_(std::move(name)), warn_(std::move(warn)), start_(steady_seconds()) {}

EventLog::~EventLog() {
  if (fd_ >= 0) ::close(fd_);
}

bool EventLog::is_on() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return fd_ >= 0;
}

void EventLog::add_to_all(const std::string& key, Json value) {
  const std::lock_guard<std::mutex> lock(mutex_);
  common_[key] = std::move(value);
}

void EventLog::write(Json event) {
  std::string problem;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (fd_ < 0) return;
    Json line = {{"event", event.at("event")},
                 {"time", rounded(now())},
                 {"elapsed", rounded(steady_seconds() - start_)}};
    line.update(common_);
    line.update(event);
    problem = write_line(line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
    if (problem.empty()) return;
    ::close(std::exchange(fd_, -1));
  }
  if (warn_) {
    warn_(fmt::format("--events {}: {}; no more events are written", name_, problem));
  }
}

// Goes on where a pipe took a part of a line, and waits where it is full.
std::string EventLog::write_line(const std::string& line) {
  std::optional<FileLock> lock;
  if (is_file_) lock.emplace(fd_, LOCK_SH);
  std::string_view left = line;
  while (!left.empty()) {
    const ssize_t written = ::write(fd_, left.data(), left.size());
    if (written >= 0) {
      left.remove_prefix(static_cast<std::size_t>(written));
    } else if (errno == EAGAIN) {
      pollfd ready{.fd = fd_, .events = POLLOUT, .revents = 0};
      if (::poll(&ready, 1, -1) < 0 && errno != EINTR) return reason(errno);
    } else if (errno != EINTR) {
      return reason(errno);
    }
  }
  return "";
}

}  // namespace steadyflux::cli
