#include "cli/version.h"

#include <fmt/format.h>
#include <torch/headeronly/version.h>

namespace steadyflux::cli {

std::string steadyflux_version() { return STEADYFLUX_VERSION; }

std::string libtorch_version() {
  return fmt::format("{}.{}.{}", TORCH_VERSION_MAJOR, TORCH_VERSION_MINOR, TORCH_VERSION_PATCH);
}

std::string version_line() {
  return fmt::format("steadyflux {} (libtorch {})", steadyflux_version(), libtorch_version());
}

}  // namespace steadyflux::cli
