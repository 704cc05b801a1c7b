// Where models that came with the program lie.
#pragma once

#include <filesystem>
#include <vector>

namespace steadyflux::cli {

// Relative to the executable: share/steadyflux/models of an installed program, models/ of a source
// tree that holds the build folder. Only folders that exist.
std::vector<std::filesystem::path> bundled_model_dirs();

}  // namespace steadyflux::cli
