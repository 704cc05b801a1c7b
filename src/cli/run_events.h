// The --events of a run, or nothing where they were not asked for: whoever makes pictures says what
// happens and need not ask.
#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <string>

#include "cli/console.h"
#include "cli/event_observer.h"

namespace steadyflux::cli {

class RunEvents {
 public:
  // `spec` may be ""; `device` is the pipeline's. `console` and `next`, which hears what the
  // pipeline says, have to outlive it.
  RunEvents(const std::string& spec, const std::string& device, Console& console, Observer& next);

  // For the pipeline.
  Observer& observer() { return events_ ? *events_ : next_; }
  // Into every line from here on.
  void add_rank(std::int64_t rank);

  void started(std::int64_t pictures, std::int64_t skipped);
  void chunk_started(std::int64_t pictures);
  // After a chunk: gives memory back to the system, and says what that changed.
  void release_memory();
  // Gives the seconds since the picture before, or since the chunk was started.
  double picture(std::int64_t index, std::int64_t prompt_index, const std::string& output,
                 std::uint64_t seed, const std::optional<PassCounts>& passes);
  void failed(const std::exception& error, std::optional<std::int64_t> prompt_index);
  void finished(std::int64_t pictures, std::int64_t skipped, std::int64_t failed);
  void finished(std::int64_t pictures, std::int64_t skipped, std::int64_t failed,
                const std::exception& error);

 private:
  void finish(std::int64_t pictures, std::int64_t skipped, std::int64_t failed, int exit_code);

  Observer& next_;
  std::unique_ptr<EventLog> log_;
  std::unique_ptr<EventObserver> events_;
  std::int64_t chunks_ = 0;
  std::chrono::steady_clock::time_point last_picture_ = std::chrono::steady_clock::now();
};

// What an exception means to those outside: one line and an exit code.
Error as_error(const std::exception& error);

}  // namespace steadyflux::cli
