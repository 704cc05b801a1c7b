#include "cli/progress_bar.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

namespace steadyflux::cli {

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string duration_text(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::llround(seconds));
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string bar_text(std::int64_t done, std::int64_t total, std::size_t width) {
  const std::int64_t all = std::max<std::int64_t>(total, 1);
  const auto full = static_cast<std::size_t>(std::clamp<std::int64_t>(done, 0, all)) * width /
                    static_cast<std::size_t>(all);
  return fmt::format("[{}{}]", std::string(full, '#'), std::string(width - full, '.'));
}

void PhaseClock::start(const std::string& name, std::int64_t total_steps) {
  name_ = name;
  total_ = total_steps;
  done_ = 0;
  first_done_ = 0;
  start_ = now_();
}

void PhaseClock::step(std::int64_t steps_done) {
  if (steps_done < done_) first_done_ = 0;  // begun again, by another plan
  done_ = steps_done;
  if (done_ > 0 && first_done_ == 0) {
    first_done_ = done_;
    first_end_ = now_();
  }
}

std::optional<double> PhaseClock::remaining() const {
  if (total_ > 0 && done_ >= total_) return 0;
  if (done_ <= first_done_) return std::nullopt;
  const double per_step = (now_() - first_end_) / static_cast<double>(done_ - first_done_);
  return per_step * static_cast<double>(std::max<std::int64_t>(total_ - done_, 0));
}

bool RateLimit::pass() {
  const double now = now_();
  if (last_ && now - *last_ < interval_) return false;
  last_ = now;
  return true;
}

}  // namespace steadyflux::cli
