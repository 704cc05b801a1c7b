#include "cli/model_places.h"

namespace steadyflux::cli {

std::vector<std::filesystem::path> bundled_model_dirs() {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::path executable = fs::read_symlink("/proc/self/exe", error);
  if (error) return {};
  const fs::path bin = executable.parent_path();
  std::vector<fs::path> candidates = {bin.parent_path() / "share" / "steadyflux" / "models"};
  fs::path folder = bin;
  for (int level = 0; level < 4 && folder.has_relative_path(); ++level) {
    folder = folder.parent_path();
    candidates.push_back(folder / "models");
  }
  std::vector<fs::path> found;
  for (const fs::path& candidate : candidates) {
    if (fs::is_directory(candidate, error)) found.push_back(candidate);
  }
  return found;
}

}  // namespace steadyflux::cli
