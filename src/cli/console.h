// What the user sees on standard error while pictures are made: warnings, progress with an ETA, and
// the table of phases at the end. Standard output carries only what was asked for (--json, -o -).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cli/options.h"
#include "cli/plan_text.h"
#include "cli/progress_bar.h"
#include "memory/timeline.h"
#include "steadyflux/pipeline.h"

namespace steadyflux::cli {

enum class Verbosity { kQuiet, kNormal, kVerbose };

class Console {
 public:
  explicit Console(Verbosity verbosity);
  Verbosity verbosity() const { return verbosity_; }
  bool is_terminal() const { return is_terminal_; }
  std::size_t width() const;  // of the terminal, in columns; 80 if there is none

  void info(const std::string& message);     // not with --quiet
  void debug(const std::string& message);    // with --verbose only
  void warning(const std::string& message);  // each text once; kept for --json
  const std::vector<std::string>& warnings() const { return warnings_; }

  // A line that the next call of any kind replaces; on terminals only. "" takes it away.
  void status(const std::string& line);

 private:
  void print_line(const std::string& line);

  Verbosity verbosity_;
  bool is_terminal_;
  bool has_color_;
  bool has_status_ = false;
  std::vector<std::string> warnings_;
};

// A plan as lines for the console, which ends the last one.
std::string plan_lines(const Plan& plan, const PlanTitle& title);

// "stage 2 of 3: 1024 x 1024, 2 steps, up to 5.20 GiB of RAM"
std::string stage_text(const StageInfo& stage, const Plan& plan);

// What step caching did with the pictures of a run of the pipeline.
class PassTally {
 public:
  void add(std::size_t request, std::int64_t index, const PassCounts& passes) {
    passes_[{request, index}] += passes;
  }
  // Over all stages; nothing without step caching. Forgotten by that.
  std::optional<PassCounts> take(std::size_t request, std::int64_t index);

 private:
  std::map<std::pair<std::size_t, std::int64_t>, PassCounts> passes_;
};

// "17 of 28 passes reused"
std::string passes_text(const PassCounts& passes);

// Shows the phases of a Pipeline on a Console, and keeps what they measured.
class Progress : public Observer {
 public:
  // `title` is for the plan that --verbose shows.
  Progress(Console& console, PlanTitle title) : console_(console), title_(std::move(title)) {}

  void planned(const Plan& plan) override;
  void memory_seen(const MemoryTimeline& timeline) override;
  void stage_started(const StageInfo& stage) override { stage_ = stage; }
  void phase_started(const std::string& name, std::int64_t total_steps) override;
  void phase_progress(std::int64_t steps_done) override;
  void phase_finished(const PhaseStats& stats) override;
  void passes_made(std::size_t request, std::int64_t index, const PassCounts& passes) override;
  void warning(const std::string& message) override { console_.warning(message); }
  int interrupt_signal() override;

  const std::vector<PhaseStats>& phases() const { return phases_; }
  PassTally& passes() { return passes_; }
  // How memory was used, as soon as that is known.
  const std::optional<MemoryTimeline>& timeline() const { return timeline_; }

 private:
  Console& console_;
  PlanTitle title_;
  PhaseClock clock_;
  std::optional<StageInfo> stage_;
  std::vector<PhaseStats> phases_;
  PassTally passes_;
  std::optional<MemoryTimeline> timeline_;
};

// Seconds, device and host memory of every phase, with a line of totals; beside the measured peaks
// those that the plan predicted, if it did. `verbose` adds columns beyond the hundredth character.
std::string phase_table(const std::vector<PhaseStats>& phases, bool verbose);

}  // namespace steadyflux::cli
