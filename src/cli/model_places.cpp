#include "cli/model_places.h"

#include <fmt/format.h>

#include <cstdlib>
#include <optional>

#include "base/file.h"
#include "config/model_config.h"
#include "steadyflux/error.h"

namespace steadyflux::cli {
namespace {

namespace fs = std::filesystem;

// "models--org--name" -> "org/name"
std::optional<std::string> hub_id(const std::string& folder_name) {
  const std::string prefix = "models--";
  if (folder_name.rfind(prefix, 0) != 0) return std::nullopt;
  const std::size_t dashes = folder_name.find("--", prefix.size());
  if (dashes == std::string::npos) return std::nullopt;
  return fmt::format("{}/{}", folder_name.substr(prefix.size(), dashes - prefix.size()),
                     folder_name.substr(dashes + 2));
}

bool is_flux_pipeline(const fs::path& folder) {
  try {
    return read_text_file(folder / "model_index.json").find("FluxPipeline") != std::string::npos;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

std::vector<std::filesystem::path> bundled_model_dirs() {
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

std::vector<FoundModel> find_models() {
  std::vector<FoundModel> found;
  std::error_code error;
  for (const fs::path& models : bundled_model_dirs()) {
    for (const fs::path& folder : sorted_entries(models)) {
      if (fs::exists(folder / "model_index.json", error)) {
        found.push_back({folder.string(), folder, "bundled"});
      }
    }
  }
  const char* chosen = std::getenv("STEADYFLUX_MODEL");
  if (chosen != nullptr && *chosen != '\0') {
    try {
      found.push_back({chosen, resolve_model(chosen, {}), "STEADYFLUX_MODEL"});
    } catch (const Error&) {
      found.push_back({chosen, chosen, "STEADYFLUX_MODEL"});  // opening it will tell what is wrong
    }
  }
  for (const fs::path& repository : sorted_entries(hugging_face_hub_cache())) {
    const auto id = hub_id(repository.filename().string());
    if (!id) continue;
    try {
      const fs::path folder = resolve_model(*id, {});
      if (is_flux_pipeline(folder)) found.push_back({*id, folder, "Hugging Face cache"});
    } catch (const Error&) {
      continue;  // no snapshot: nothing that could be named with -m
    }
  }
  return found;
}

}  // namespace steadyflux::cli
