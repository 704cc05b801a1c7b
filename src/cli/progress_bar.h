// What progress lines are made of: how far a phase is, when it should be through, and the text for
// both. Shared by those who show single requests, batches, and events.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>

namespace steadyflux::cli {

// Of a clock that never goes back.
double steady_seconds();

// "4:05", "1:02:03"
std::string duration_text(double seconds);
// "[####......]" with `width` characters between the brackets.
std::string bar_text(std::int64_t done, std::int64_t total, std::size_t width);

// Follows the steps of one phase after the other.
class PhaseClock {
 public:
  explicit PhaseClock(std::function<double()> now = steady_seconds) : now_(std::move(now)) {}

  void start(const std::string& name, std::int64_t total_steps);
  void step(std::int64_t steps_done);

  const std::string& name() const { return name_; }
  std::int64_t total() const { return total_; }
  std::int64_t done() const { return done_; }
  double seconds() const { return now_() - start_; }  // since start()
  // Until the last step. The first step pays for reading the weights, so it does not count: nothing
  // is known until there are two.
  std::optional<double> remaining() const;

 private:
  std::function<double()> now_;
  std::string name_;
  std::int64_t total_ = 0;
  std::int64_t done_ = 0;
  std::int64_t first_done_ = 0;
  double start_ = 0;
  double first_end_ = 0;
};

// True at most `per_second` times a second.
class RateLimit {
 public:
  RateLimit(double per_second, std::function<double()> now)
      : interval_(1 / per_second), now_(std::move(now)) {}
  bool pass();
  void reset() { last_.reset(); }  // the next one passes

 private:
  double interval_;
  std::function<double()> now_;
  std::optional<double> last_;
};

}  // namespace steadyflux::cli
