// A process that takes part in a job, for tests that kill it: the test program itself, started
// again with a variable set that makes it work instead of running tests. What it did stands in a
// log that all workers append to.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "sharing/rendezvous.h"
#include "sharing/work_share.h"
#include "steadyflux/error.h"

namespace share_worker {

constexpr char kVariable[] = "STEADYFLUX_TEST_SHARE_WORKER";

struct Job {
  std::uint16_t port = 0;  // 0: the launcher around says where
  std::int64_t items = 0;
  int item_milliseconds = 0;
  int chunk = 1;
  double lease_seconds = 1;
  int stops_after = 0;  // so many items: it stops itself before it says that the last is done
  std::string log;      // it begins to take items when the file "LOG.go" is there
};

inline steadyflux::Rendezvous rendezvous_at(std::uint16_t port) {
  return *steadyflux::find_rendezvous([](const char*) { return nullptr; },
                                      "127.0.0.1:" + std::to_string(port));
}

inline bool never() { return false; }

class Log {
 public:
  explicit Log(const std::string& path)
      : fd_(::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600)) {}
  ~Log() { ::close(fd_); }
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  void write(const std::string& what, const std::string& value) {
    const std::string line = what + " " + std::to_string(getpid()) + " " + value + "\n";
    if (::write(fd_, line.data(), line.size()) != static_cast<ssize_t>(line.size())) std::abort();
  }

 private:
  int fd_;
};

inline void work(const Job& job, Log& log) {
  steadyflux::WorkShare::Options options;
  options.lease_seconds = job.lease_seconds;
  options.connect_seconds = 20;
  const auto at = job.port == 0 ? steadyflux::find_rendezvous(std::getenv, std::nullopt)
                                : rendezvous_at(job.port);
  steadyflux::WorkShare share(at.value(), job.items, "job", options);
  log.write("joined", share.hosts_store() ? "host" : "client");
  while (access((job.log + ".go").c_str(), F_OK) != 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  int made = 0;
  while (!share.all_done()) {
    const auto items = share.take(job.chunk);
    if (items.empty()) share.wait(never);
    for (const std::int64_t item : items) log.write("took", std::to_string(item));
    for (const std::int64_t item : items) {
      std::this_thread::sleep_for(std::chrono::milliseconds(job.item_milliseconds));
      log.write("made", std::to_string(item));
      if (++made == job.stops_after) raise(SIGSTOP);
      share.done(item);
    }
  }
  share.finish(never);
  log.write("finished", "");
}

inline int run(const std::string& text) {
  Job job;
  std::istringstream(text) >> job.port >> job.items >> job.item_milliseconds >> job.chunk >>
      job.lease_seconds >> job.stops_after >> job.log;
  Log log(job.log);
  try {
    work(job, log);
    return 0;
  } catch (const steadyflux::Error& error) {
    log.write("error", error.what());
    return error.exit_code();
  }
}

inline pid_t start(const Job& job) {
  std::ostringstream text;
  text << job.port << ' ' << job.items << ' ' << job.item_milliseconds << ' ' << job.chunk << ' '
       << job.lease_seconds << ' ' << job.stops_after << ' ' << job.log;
  const std::string value = text.str();
  const pid_t pid = fork();
  if (pid == 0) {
    setenv(kVariable, value.c_str(), 1);
    const int null = ::open("/dev/null", O_WRONLY);
    dup2(null, STDOUT_FILENO);
    execl("/proc/self/exe", "share_worker", static_cast<char*>(nullptr));
    _exit(127);
  }
  return pid;
}

// The exit code; 128 + signal; nothing if it still runs after a minute, and then it is killed.
inline std::optional<int> result_of(pid_t pid) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  int status = 0;
  while (waitpid(pid, &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() > deadline) {
      kill(pid, SIGKILL);
      waitpid(pid, &status, 0);
      return std::nullopt;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// What the log tells.
struct Story {
  struct Event {
    std::string what;
    pid_t who = 0;
    std::string value;
  };
  std::vector<Event> events;

  explicit Story(const std::string& text) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      Event event;
      std::istringstream words(line);
      words >> event.what >> event.who >> std::ws;
      std::getline(words, event.value);
      events.push_back(event);
    }
  }

  std::vector<Event> of(const std::string& what) const {
    std::vector<Event> some;
    for (const Event& event : events) {
      if (event.what == what) some.push_back(event);
    }
    return some;
  }

  std::set<std::string> by(const std::string& what, pid_t who) const {
    std::set<std::string> values;
    for (const Event& event : of(what)) {
      if (event.who == who) values.insert(event.value);
    }
    return values;
  }

  // Every item that was made, and those of them that were made more than once.
  std::set<std::string> made() const {
    std::set<std::string> all;
    for (const Event& event : of("made")) all.insert(event.value);
    return all;
  }

  std::multiset<std::string> made_again() const {
    std::set<std::string> all;
    std::multiset<std::string> again;
    for (const Event& event : of("made")) {
      if (!all.insert(event.value).second) again.insert(event.value);
    }
    return again;
  }

  std::string last(const std::string& what, pid_t who) const {
    std::string value;
    for (const Event& event : of(what)) {
      if (event.who == who) value = event.value;
    }
    return value;
  }
};

// A port that nothing listens on (any more).
inline std::uint16_t free_port() {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), length), 0);
  EXPECT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length), 0);
  close(fd);
  return ntohs(address.sin_port);
}

}  // namespace share_worker
