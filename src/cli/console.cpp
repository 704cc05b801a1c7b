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

std::size_t terminal_width() {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

bool wants_color() {
  const char* no_color = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  return (no_color == nullptr || *no_color == '\0') && terminal != nullptr &&
         std::string(terminal) != "dumb";
}

std::string format_seconds(double seconds) {
  const auto whole = static_cast<std::int64_t>(seconds + 0.5);
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Console::Console(Verbosity verbosity)
    : verbosity_(verbosity),
      is_terminal_(isatty(STDERR_FILENO) == 1),
      has_color_(is_terminal_ && wants_color()) {}

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
  std::fputs(("\r\x1b[K" + line.substr(0, terminal_width() - 1)).c_str(), stderr);
  std::fflush(stderr);
  has_status_ = !line.empty();
}

void Progress::planned(const Plan& plan) {
  if (console_.verbosity() != Verbosity::kVerbose) return;
  std::string text = plan_text(plan, title_, text_style_of(STDERR_FILENO));
  text.pop_back();  // the console ends the line
  console_.debug(text);
}

void Progress::phase_started(const std::string& name, std::int64_t total_steps) {
  name_ = name;
  total_steps_ = total_steps;
  start_ = std::chrono::steady_clock::now();
  first_step_done_ = 0;
  phase_progress(0);
}

void Progress::phase_progress(std::int64_t steps_done) {
  // The first step pays for reading the weights, so the ETA counts from its end.
  if (steps_done > 0 && first_step_done_ == 0) {
    first_step_done_ = steps_done;
    first_step_ = std::chrono::steady_clock::now();
  }
  if (!console_.is_terminal()) return;
  const std::int64_t total = std::max<std::int64_t>(total_steps_, 1);
  const std::size_t room = terminal_width();
  const std::size_t bar = room > 60 ? std::min<std::size_t>(40, room - 45) : 10;
  const auto full =
      static_cast<std::size_t>(std::min(steps_done, total)) * bar / static_cast<std::size_t>(total);
  std::string eta;
  if (steps_done > first_step_done_) {
    const double per_step =
        seconds_since(first_step_) / static_cast<double>(steps_done - first_step_done_);
    eta =
        fmt::format("  ETA {}", format_seconds(per_step * static_cast<double>(total - steps_done)));
  }
  console_.status(fmt::format("{:<9}[{}{}] {}/{}  {}{}", name_, std::string(full, '#'),
                              std::string(bar - full, '.'), steps_done, total_steps_,
                              format_seconds(seconds_since(start_)), eta));
}

void Progress::phase_finished(const PhaseStats& stats) {
  phases_.push_back(stats);
  console_.status("");
  const std::string line =
      fmt::format("{:<9}{:.2f} s, {} steps", stats.name, stats.seconds, total_steps_);
  if (console_.is_terminal()) {
    console_.debug(line);
  } else {
    console_.info(line);
  }
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
  const auto row = [&](const PhaseStats& phase) {
    std::string text = fmt::format("{:<9}{:>8.2f}", phase.name, phase.seconds);
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
  std::string table = fmt::format("{:<9}{:>8}", "phase", "seconds");
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
