// The keys of one rendezvous in the store: values that are changed as a whole by compare and set,
// and counters.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "sharing/store.h"

namespace steadyflux {

class SharedValues {
 public:
  // Gives the new value, or nothing to leave the present one alone.
  using Change = std::function<std::optional<std::string>(const std::string& now)>;

  // Keys get `prefix` in front.
  SharedValues(SharedStore& store, std::string prefix);

  // A key that nobody set holds `initial`, and is set to it. All processes must agree on it.
  std::string read(const std::string& key, const std::string& initial);
  // `expected` must be what the key was seen to hold. True if it was set.
  bool replace(const std::string& key, const std::string& expected, const std::string& desired);
  // Changes the value, again and again while others come between; gives what it is afterwards. The
  // new values of two processes must differ where it matters who was first.
  std::string update(const std::string& key, const std::string& initial, const Change& change);

  std::int64_t add(const std::string& counter, std::int64_t amount);

  const std::string& place() const { return store_.place(); }

 private:
  SharedStore& store_;
  std::string prefix_;
};

}  // namespace steadyflux
