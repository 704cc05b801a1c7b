#include "sharing/shared_values.h"

#include <utility>

#include "steadyflux/error.h"

namespace steadyflux {

SharedValues::SharedValues(SharedStore& store, std::string prefix)
    : store_(store), prefix_(std::move(prefix)) {}

std::string SharedValues::read(const std::string& key, const std::string& initial) {
  return store_.compare_set(prefix_ + key, "", initial);
}

bool SharedValues::replace(const std::string& key, const std::string& expected,
                           const std::string& desired) {
  return store_.compare_set(prefix_ + key, expected, desired) == desired;
}

std::string SharedValues::update(const std::string& key, const std::string& initial,
                                 const Change& change) {
  std::string now = read(key, initial);
  for (;;) {
    const auto desired = change(now);
    if (!desired || *desired == now) return now;
    std::string held = store_.compare_set(prefix_ + key, now, *desired);
    if (held == *desired) return held;
    if (held == now) {  // c10d's answer for a key that is not there
      throw Error(ErrorKind::kIo, "the rendezvous store at " + place() +
                                      " lost what it held; run the same command again to go on");
    }
    now = std::move(held);
  }
}

std::int64_t SharedValues::add(const std::string& counter, std::int64_t amount) {
  return store_.add(prefix_ + counter, amount);
}

}  // namespace steadyflux
