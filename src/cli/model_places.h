// Where models lie: those that came with the program, and those in the Hugging Face cache.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace steadyflux::cli {

// Relative to the executable: share/steadyflux/models of an installed program, models/ of a source
// tree that holds the build folder. Only folders that exist.
std::vector<std::filesystem::path> bundled_model_dirs();

struct FoundModel {
  std::string spec;  // what to give to -m
  std::filesystem::path folder;
  std::string place;  // "bundled", "STEADYFLUX_MODEL", "Hugging Face cache"
};

// Every folder with a model_index.json in those places. Models of other kinds in the Hugging Face
// cache are left out; damaged ones are not.
std::vector<FoundModel> find_models();

}  // namespace steadyflux::cli
