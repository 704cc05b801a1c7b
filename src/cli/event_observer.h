// Writes the events of a run (docs/events.md) while it passes on to another Observer what happens,
// so that the two that show and record progress need not know of each other.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "cli/event_log.h"
#include "cli/json_output.h"
#include "cli/progress_bar.h"
#include "memory/monitor.h"
#include "memory/timeline.h"
#include "steadyflux/error.h"
#include "steadyflux/pipeline.h"

namespace steadyflux::cli {

// Where the numbers come from; tests have their own.
struct EventSources {
  std::function<MemorySample()> process = [] { return sample_process_memory(); };
  std::function<std::int64_t()> available;  // MemAvailable, by default
  std::function<DeviceSample()> device;     // without it, sizes on the device are null
  std::function<double()> now = steady_seconds;
};

struct PictureEvent {
  std::int64_t index = 0;         // of the picture in the batch, from 0
  std::int64_t prompt_index = 0;  // of its prompt in the file or stream, from 0
  std::string output;             // where it was written
  std::uint64_t seed = 0;
  double seconds = 0;
  std::optional<PassCounts> passes = {};  // with step caching
};

struct BatchEnd {
  std::int64_t pictures = 0;  // made by this run
  std::int64_t skipped = 0;
  std::int64_t failed = 0;
  int exit_code = 0;
};

class EventObserver : public Observer {
 public:
  EventObserver(EventLog& log, Observer& next, EventSources sources = {});

  void planned(const Plan& plan) override;
  void memory_seen(const MemoryTimeline& timeline) override;
  void stage_started(const StageInfo& stage) override;
  void phase_started(const std::string& name, std::int64_t total_steps) override;
  void phase_progress(std::int64_t steps_done) override;
  void phase_finished(const PhaseStats& stats) override;
  void passes_made(std::size_t request, std::int64_t index, const PassCounts& passes) override {
    next_.passes_made(request, index, passes);
  }
  void warning(const std::string& message) override;
  int interrupt_signal() override { return next_.interrupt_signal(); }

  // For whoever runs a batch.
  void started(std::int64_t pictures, std::int64_t skipped);
  void chunk_started(std::int64_t chunk, std::int64_t pictures);
  void memory_released(const MemorySample& before, const MemorySample& after);
  void picture(const PictureEvent& picture);
  // `prompt_index`: of the prompt that failed; nothing if it is the run.
  void error(const Error& error, std::optional<std::int64_t> prompt_index);
  void finished(const BatchEnd& end);

 private:
  EventLog& log_;
  Observer& next_;
  EventSources sources_;
  PhaseClock clock_;
  RateLimit rate_;
  MemorySample phase_begin_;
  bool in_phase_ = false;
  double start_;
};

// {"computed": 11, "reused": 17}
Json passes_json(const PassCounts& passes);

// All that was measured in a phase, its name as "name".
Json phase_stats_json(const PhaseStats& stats);

}  // namespace steadyflux::cli
