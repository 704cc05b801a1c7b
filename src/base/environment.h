// Variables of the environment.
#pragma once

#include <cstdlib>
#include <string>

namespace steadyflux {

// "" if it is not set, or set to nothing.
inline std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace steadyflux
