#include "cli/console.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "base/bytes.h"
#include "cli/plan_text.h"
#include "cli/signals.h"
#include "cli/text_output.h"

namespace steadyflux::cli {
namespace {

bool wants_color() {
  const char* no_color = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  return (no_color == nullptr || *no_color == '\0') && terminal != nullptr &&
         std::string(terminal) != "dumb";
}

}  // namespace

Console::Console(Verbosity verbosity)
    : verbosity_(verbosity),
      is_terminal_(isatty(STDERR_FILENO) == 1),
      has_color_(is_terminal_ && wants_color()) {}

std::size_t Console::width() const {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

// fputs, because fmt::print throws if standard error is closed or full: no reason to give up.
void Console::print_line(const std::string& line) {
  status("");
  std::fputs((line + "\n").c_str(), stderr);
}

void Console::info(const std::string& message) {
  if (verbosity_ != Verbosity::kQuiet) print_line(message);
}

void Console::debug(const std::string& message) {
  if (verbosity_ == Verbosity::kVerbose) print_line(message);
}

void Console::warning(const std::string& message) {
  if (std::find(warnings_.begin(), warnings_.end(), message) != warnings_.end()) return;
  warnings_.push_back(message);
  if (verbosity_ == Verbosity::kQuiet) return;
  print_line(fmt::format("{}warning:{} {}", has_color_ ? "\x1b[33m" : "",
                         has_color_ ? "\x1b[0m" : "", message));
}

void Console::status(const std::string& line) {
  if (!is_terminal_ || verbosity_ == Verbosity::kQuiet || (line.empty() && !has_status_)) return;
  std::fputs(("\r\x1b[K" + line.substr(0, width() - 1)).c_str(), stderr);
  std::fflush(stderr);
  has_status_ = !line.empty();
}

std::string plan_lines(const Plan& plan, const PlanTitle& title) {
  std::string text = plan_text(plan, title, text_style_of(STDERR_FILENO));
  text.pop_back();
  return text;
}

std::string stage_text(const StageInfo& stage, const Plan& plan) {
  auto text =
      fmt::format("stage {} of {}: {} x {}, {} steps, up to {} of RAM", stage.number, stage.count,
                  stage.width, stage.height, stage.steps, format_bytes(plan.ram_peak_bytes));
  if (plan.budget.has_device) {
    text += fmt::format(" and {} of VRAM", format_bytes(plan.device_peak_bytes));
  }
  return text;
}

void Progress::memory_seen(const MemoryTimeline& timeline) {
  if (!stage_) {
    timeline_ = timeline;
    return;
  }
  MemoryTimeline seen = timeline;
  for (auto& phase : seen.phases) phase.name = fmt::format("{} {}", phase.name, stage_->number);
  if (!timeline_) timeline_.emplace();
  append_timeline(*timeline_, std::move(seen));
}

void Progress::planned(const Plan& plan) {
  if (stage_) console_.info(stage_text(*stage_, plan));
  if (console_.verbosity() == Verbosity::kVerbose) console_.debug(plan_lines(plan, title_));
}

void Progress::phase_started(const std::string& name, std::int64_t total_steps) {
  clock_.start(name, total_steps);
  phase_progress(0);
}

void Progress::phase_progress(std::int64_t steps_done) {
  clock_.step(steps_done);
  if (!console_.is_terminal()) return;
  const std::size_t room = console_.width();
  const std::size_t bar = room > 60 ? std::min<std::size_t>(40, room - 45) : 10;
  const auto remaining = clock_.remaining();
  console_.status(fmt::format("{:<8} {} {}/{}  {}{}", clock_.name(),
                              bar_text(steps_done, clock_.total(), bar), steps_done, clock_.total(),
                              duration_text(clock_.seconds()),
                              remaining ? "  ETA " + duration_text(*remaining) : ""));
}

void Progress::phase_finished(const PhaseStats& stats) {
  phases_.push_back(stats);
  if (stage_) phases_.back().stage = stage_->number;
  console_.status("");
  const std::string line =
      fmt::format("{:<8} {:.2f} s, {} steps", stats.name, stats.seconds, clock_.total());
  if (console_.is_terminal()) {
    console_.debug(line);
  } else {
    console_.info(line);
  }
}

std::optional<PassCounts> PassTally::take(std::size_t request, std::int64_t index) {
  const auto found = passes_.find({request, index});
  if (found == passes_.end()) return std::nullopt;
  const auto passes = found->second;
  passes_.erase(found);
  return passes;
}

std::string passes_text(const PassCounts& passes) {
  return fmt::format("{} of {} passes reused", passes.reused, passes.computed + passes.reused);
}

void Progress::passes_made(std::size_t request, std::int64_t index, const PassCounts& passes) {
  passes_.add(request, index, passes);
  console_.debug(fmt::format("step cache: {}", passes_text(passes)));
}

int Progress::interrupt_signal() { return pending_signal(); }

std::string phase_table(const std::vector<PhaseStats>& phases, bool verbose) {
  const auto any = [&phases](std::int64_t PhaseStats::*value) {
    return std::any_of(phases.begin(), phases.end(),
                       [value](const PhaseStats& phase) { return phase.*value > 0; });
  };
  const bool on_device = any(&PhaseStats::device_peak_reserved);
  const bool predicted = any(&PhaseStats::predicted_device) || any(&PhaseStats::predicted_ram);
  // A measured peak with what the plan said before, and by how much it was missed.
  const auto peak = [predicted](std::int64_t measured, std::int64_t expected) {
    std::string cells = fmt::format("{:>12}", format_bytes(measured));
    if (!predicted) return cells;
    if (expected <= 0) return cells + fmt::format("{:>12}{:>7}", "-", "");
    const double off =
        100.0 * static_cast<double>(measured - expected) / static_cast<double>(expected);
    return cells + fmt::format("{:>12}{:>7}", format_bytes(expected), fmt::format("{:+.1f}%", off));
  };
  const auto peak_title = [predicted](const char* name) {
    return fmt::format("{:>12}", name) +
           (predicted ? fmt::format("{:>12}{:>7}", "predicted", "") : "");
  };
  const auto name_of = [](const PhaseStats& phase) {
    return phase.stage == 0 ? phase.name : fmt::format("{} {}", phase.name, phase.stage);
  };
  std::size_t names = 9;  // the column's width
  for (const auto& phase : phases) names = std::max(names, name_of(phase).size() + 1);
  const auto row = [&](const PhaseStats& phase) {
    std::string text = fmt::format("{:<{}}{:>8.2f}", name_of(phase), names, phase.seconds);
    if (on_device) text += peak(phase.device_peak_allocated, phase.predicted_device);
    if (on_device && verbose) {
      text += fmt::format("{:>12}", format_bytes(phase.device_peak_reserved));
    }
    text += peak(phase.peak_rss, phase.predicted_ram);
    if (verbose) {
      text += fmt::format("{:>12}{:>12}", format_bytes(phase.peak_rss_anon),
                          format_bytes(phase.peak_rss_file));
    }
    return text + fmt::format("{:>7}{:>12}", phase.major_faults, format_bytes(phase.swap));
  };
  std::string table = fmt::format("{:<{}}{:>8}", "phase", names, "seconds");
  if (on_device) table += peak_title("GPU peak");
  if (on_device && verbose) table += fmt::format("{:>12}", "reserved");
  table += peak_title("RSS peak");
  if (verbose) table += fmt::format("{:>12}{:>12}", "anonymous", "file");
  table += fmt::format("{:>7}{:>12}", "faults", "swap");
  PhaseStats total{.name = "total"};
  for (const PhaseStats& phase : phases) {
    table += fmt::format("\n{}", row(phase));
    total.seconds += phase.seconds;
    total.major_faults += phase.major_faults;
    for (std::int64_t PhaseStats::*value :
         {&PhaseStats::device_peak_allocated, &PhaseStats::device_peak_reserved,
          &PhaseStats::peak_rss, &PhaseStats::peak_rss_anon, &PhaseStats::peak_rss_file,
          &PhaseStats::swap, &PhaseStats::predicted_device, &PhaseStats::predicted_ram}) {
      total.*value = std::max(total.*value, phase.*value);
    }
  }
  return fmt::format("{}\n{}", table, row(total));
}

}  // namespace steadyflux::cli
