// Who lives: every process raises a counter of its own in the store, and the others judge by their
// own clock how long it has not changed. No clocks of two machines are compared, and a judge that
// slept itself looks again before it judges.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>

namespace steadyflux {

class Liveness {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Liveness(Clock::duration lease) : lease_(lease) {}

  // The counter of process `id` stood at `counter` at the time `now`.
  void saw(std::int64_t id, std::int64_t counter, Clock::time_point now);

  // Its counter was seen to change since it was first looked at.
  bool lives(std::int64_t id) const;
  // It was looked at over the whole length of a lease, and kLooks times at least, without a change.
  bool is_dead(std::int64_t id) const;

 private:
  static constexpr int kLooks = 3;

  struct Sight {
    std::int64_t counter = 0;
    Clock::time_point changed;  // when this value was first seen
    Clock::time_point looked;
    int looks = 0;  // at this value, after the first
    bool seen_to_change = false;
  };

  Clock::duration lease_;
  std::map<std::int64_t, Sight> sights_;
};

}  // namespace steadyflux
