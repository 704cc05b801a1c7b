// --events: what happens, as a stream of JSON lines for other programs (docs/events.md is the
// schema). The log serves the work and never ends it: when a reader has gone away or the disk is
// full, there is one warning and no more lines.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "cli/json_output.h"

namespace steadyflux::cli {

class EventLog {
 public:
  using Warn = std::function<void(const std::string& message)>;

  // `spec`: a file, which is appended to; "fd:N" or "N", an open file descriptor; "-", standard
  // output. `warn` is called at most once, from write(). Throws Error: kUsage if there is no such
  // descriptor to write to, kIo if the file cannot be opened. SIGPIPE has to be ignored: signals.h.
  static std::unique_ptr<EventLog> open(const std::string& spec, Warn warn = {});
  ~EventLog();
  EventLog(const EventLog&) = delete;
  EventLog& operator=(const EventLog&) = delete;

  // Put into every event from now on, such as a process's rank.
  void add_to_all(const std::string& key, Json value);
  // One line, by one call of the system: lines of several processes do not mix in a file. `event`
  // has the key "event"; "time" and "elapsed" are put in here. From any thread.
  void write(Json event);
  bool is_on() const;  // false once writing has failed

 private:
  EventLog(int fd, std::string name, Warn warn);
  std::string write_line(const std::string& line);  // "", or why not

  mutable std::mutex mutex_;  // guards fd_ and common_
  int fd_;
  bool is_file_ = false;  // opened here, by its name
  std::string name_;
  Warn warn_;
  Json common_ = Json::object();
  double start_;
};

}  // namespace steadyflux::cli
