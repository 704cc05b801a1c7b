#include "sharing/liveness.h"

namespace steadyflux {

void Liveness::saw(std::int64_t id, std::int64_t counter, Clock::time_point now) {
  const auto [at, first] = sights_.try_emplace(id, Sight{counter, now, now, 0, false});
  if (first) return;
  Sight& sight = at->second;
  sight.looked = now;
  if (sight.counter == counter) {
    ++sight.looks;
    return;
  }
  sight = {counter, now, now, 0, true};
}

bool Liveness::lives(std::int64_t id) const {
  const auto at = sights_.find(id);
  return at != sights_.end() && at->second.seen_to_change && !is_dead(id);
}

bool Liveness::is_dead(std::int64_t id) const {
  const auto at = sights_.find(id);
  if (at == sights_.end()) return false;
  const Sight& sight = at->second;
  return sight.looks >= kLooks && sight.looked - sight.changed >= lease_;
}

}  // namespace steadyflux
