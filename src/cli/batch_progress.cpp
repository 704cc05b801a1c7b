#include "cli/batch_progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>

#include "cli/signals.h"

namespace steadyflux::cli {
namespace {

constexpr double kDrawsPerSecond = 20;

// The phases in their order, and the share of time that later ones are taken to have in the first
// chunk, when only the pace of the present one is known. What encoding says of the others is too
// little for a guess.
struct PhaseShare {
  const char* name;
  double share;
};
constexpr std::array<PhaseShare, 5> kPhases = {
    {{"encode", 0}, {"encode_image", 0}, {"modulate", 0}, {"denoise", 0.85}, {"decode", 0.15}}};

const PhaseShare* find_phase(const std::string& name) {
  const auto* found = std::find_if(kPhases.begin(), kPhases.end(),
                                   [&](const PhaseShare& phase) { return name == phase.name; });
  return found == kPhases.end() ? nullptr : found;
}

}  // namespace

BatchProgress::BatchProgress(Console& console, PlanTitle title, std::optional<std::int64_t> total,
                             std::function<double()> now)
    : console_(console),
      title_(std::move(title)),
      total_(total),
      now_(std::move(now)),
      clock_(now_),
      rate_(kDrawsPerSecond, now_) {}

void BatchProgress::chunk_started(std::int64_t pictures) {
  chunk_finished();
  in_chunk_ = pictures;
  handled_in_chunk_ = 0;
  passes_ = {};  // those of a chunk that failed
  chunk_start_ = now_();
  chunk_phases_.clear();
  in_phase_ = false;
}

void BatchProgress::chunk_finished() {
  if (in_chunk_ > 0 && handled_in_chunk_ >= in_chunk_) {  // one that was given up says nothing
    pace_.seconds += now_() - chunk_start_;
    pace_.pictures += in_chunk_;
    for (const PhaseShare& phase : kPhases) {
      Pace& pace = phase_paces_[phase.name];
      const auto found = chunk_phases_.find(phase.name);
      if (found != chunk_phases_.end()) pace.seconds += found->second;
      pace.pictures += in_chunk_;
    }
  }
  in_chunk_ = 0;
  in_phase_ = false;
  console_.status("");
}

void BatchProgress::pictures_skipped(std::int64_t count) { handled_ += count; }

void BatchProgress::picture_finished(const std::string& name, double seconds,
                                     const std::optional<PassCounts>& passes) {
  ++handled_;
  ++handled_in_chunk_;
  std::string line = fmt::format("[{}] {} {:.1f} s", count_text(), name, seconds);
  if (passes) line += fmt::format(", {}", passes_text(*passes));
  if (console_.is_terminal()) {
    console_.debug(line);
    rate_.reset();
    show_status();
  } else {
    console_.info(line);
  }
}

void BatchProgress::picture_failed(const std::string& name, const std::string& message) {
  ++handled_;
  ++handled_in_chunk_;
  console_.info(fmt::format("[{}] {} failed: {}", count_text(), name, message));
}

void BatchProgress::planned(const Plan& plan) {
  if (stage_) console_.debug(stage_text(*stage_, plan));
  stage_.reset();
  if (console_.verbosity() != Verbosity::kVerbose) return;
  std::string text = plan_lines(plan, title_);
  if (text == last_plan_) return;  // most chunks are alike
  console_.debug(text);
  last_plan_ = std::move(text);
}

void BatchProgress::phase_started(const std::string& name, std::int64_t total_steps) {
  clock_.start(name, total_steps);
  in_phase_ = true;
  rate_.reset();
  show_status();
}

void BatchProgress::phase_progress(std::int64_t steps_done) {
  clock_.step(steps_done);
  show_status();
}

void BatchProgress::phase_finished(const PhaseStats& stats) {
  in_phase_ = false;
  chunk_phases_[stats.name] += stats.seconds;
  console_.debug(
      fmt::format("{:<8} {:.2f} s, {} steps", stats.name, stats.seconds, clock_.total()));
  const auto same = std::find_if(phases_.begin(), phases_.end(),
                                 [&](const PhaseStats& phase) { return phase.name == stats.name; });
  if (same == phases_.end()) {
    phases_.push_back(stats);
    return;
  }
  same->seconds += stats.seconds;
  same->load_seconds += stats.load_seconds;
  same->major_faults += stats.major_faults;
  same->disk_read += stats.disk_read;
  for (std::int64_t PhaseStats::*peak :
       {&PhaseStats::device_peak_allocated, &PhaseStats::device_peak_reserved,
        &PhaseStats::peak_rss, &PhaseStats::peak_rss_anon, &PhaseStats::peak_rss_file,
        &PhaseStats::swap, &PhaseStats::predicted_device, &PhaseStats::predicted_ram}) {
    (*same).*peak = std::max((*same).*peak, stats.*peak);
  }
}

int BatchProgress::interrupt_signal() { return pending_signal(); }

// Of the present phase by its own pace, of later ones by that of earlier chunks.
std::optional<double> BatchProgress::chunk_remaining() const {
  const PhaseShare* phase = find_phase(clock_.name());
  if (phase == nullptr || (!in_phase_ && chunk_phases_.empty())) {  // at its very beginning
    if (pace_.pictures == 0) return std::nullopt;
    return pace_.of(in_chunk_);
  }
  const auto known = [this](const char* name) -> std::optional<double> {
    const auto found = phase_paces_.find(name);
    if (found == phase_paces_.end()) return std::nullopt;
    return found->second.of(in_chunk_);
  };
  double left = 0;
  double whole = 0;  // of the present phase
  if (!in_phase_) {
    whole = chunk_phases_.at(phase->name);
  } else if (const auto remaining = clock_.remaining()) {
    left = *remaining;
    whole = clock_.seconds() + left;
  } else if (const auto expected = known(phase->name)) {
    left = std::max(*expected - clock_.seconds(), 0.0);
    whole = *expected;
  } else {
    return std::nullopt;
  }
  for (const PhaseShare* later = phase + 1; later != kPhases.end(); ++later) {
    if (const auto expected = known(later->name)) {
      left += *expected;
    } else if (phase->share > 0) {
      left += whole * later->share / phase->share;
    } else {
      return std::nullopt;
    }
  }
  return left;
}

std::optional<double> BatchProgress::remaining() const {
  if (!total_) return std::nullopt;
  const std::int64_t chunk_left = std::max<std::int64_t>(in_chunk_ - handled_in_chunk_, 0);
  const std::int64_t behind = std::max<std::int64_t>(*total_ - handled_ - chunk_left, 0);
  double left = 0;
  if (chunk_left > 0) {
    const auto chunk = chunk_remaining();
    if (!chunk) return std::nullopt;
    left = *chunk;
  }
  if (behind == 0) return left;
  if (pace_.pictures > 0) return left + pace_.of(behind);
  if (in_chunk_ == 0) return std::nullopt;
  const Pace first{.seconds = now_() - chunk_start_ + left, .pictures = in_chunk_};
  return left + first.of(behind);
}

std::string BatchProgress::count_text() const {
  return total_ ? fmt::format("{}/{}", handled_, *total_) : std::to_string(handled_);
}

std::string BatchProgress::status_text(std::size_t columns) const {
  std::string tail = fmt::format("picture {}", count_text());
  if (const auto left = remaining()) tail += fmt::format(", ETA {}", duration_text(*left));
  if (!in_phase_) return tail;
  const std::string steps = fmt::format("{}/{}", clock_.done(), clock_.total());
  // What is no bar: the name, brackets, blanks, room for a longer ETA.
  const std::size_t rest = 16 + steps.size() + tail.size();
  const std::size_t bar = std::clamp<std::size_t>(columns > rest ? columns - rest : 0, 5, 30);
  return fmt::format("{:<8} {} {}  {}", clock_.name(), bar_text(clock_.done(), clock_.total(), bar),
                     steps, tail);
}

void BatchProgress::show_status() {
  if (console_.is_terminal() && rate_.pass()) console_.status(status_text(console_.width()));
}

}  // namespace steadyflux::cli
