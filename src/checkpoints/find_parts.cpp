#include "checkpoints/find_parts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/json.h"
#include "checkpoints/recognise.h"
#include "config/model_config.h"
#include "steadyflux/error.h"
#include "weights/checkpoint.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

const char* option_of(Component component) {
  if (component == Component::kTextEncoder) return "--clip-l";
  return component == Component::kTextEncoder2 ? "--t5" : "--vae";
}

// Is it a file or folder of that component and of nothing else? What cannot be read is not.
bool holds_only(const fs::path& path, Component component) {
  try {
    const auto recognised = recognise_file(Checkpoint::open(path));
    return recognised.kind != FileKind::kAllInOne && recognised.parts.size() == 1 &&
           recognised.parts.front().component == component;
  } catch (const std::exception&) {
    return false;
  }
}

bool is_weight_file(const fs::path& path) {
  std::error_code error;
  const auto extension = path.extension();
  return (extension == ".safetensors" || extension == ".gguf" || extension == ".sft") &&
         fs::is_regular_file(path, error);
}

std::optional<fs::path> file_in(const Place& place, const fs::path& folder, Component component) {
  std::vector<std::string> found;
  for (const fs::path& path : weight_files_in(folder)) {
    if (holds_only(path, component)) found.push_back(path.string());
  }
  if (found.size() > 1 && !place.in_cache) {
    throw Error(
        ErrorKind::kBadInput,
        fmt::format("{}: several files would do as {}: {}; name one with {}", folder.string(),
                    to_string(component), fmt::join(found, ", "), option_of(component)));
  }
  if (found.size() != 1) return std::nullopt;
  return found.front();
}

// A pipeline of another kind: its tokenizers have the same names, and other words.
bool is_other_pipeline(const fs::path& folder) {
  std::error_code error;
  const fs::path index = folder / "model_index.json";
  if (!fs::exists(index, error)) return false;
  try {
    const auto json = read_json_object(index);
    const auto name = json.find("_class_name");
    return name == json.end() || !name->is_string() ||
           !name->get<std::string>().starts_with("Flux") ||
           name->get<std::string>().starts_with("Flux2");
  } catch (const Error&) {
    return true;
  }
}

// tokenizer.json alone is enough if its class is the right one.
bool has_tokenizer_of(const fs::path& folder, const std::string& name) {
  std::error_code error;
  if (!fs::exists(folder / "tokenizer.json", error)) return false;
  try {
    const auto config = read_json_object(folder / "tokenizer_config.json");
    const auto found = config.find("tokenizer_class");
    return found != config.end() && found->is_string() &&
           found->get<std::string>().starts_with(name == "tokenizer" ? "CLIP" : "T5");
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

std::vector<fs::path> weight_files_in(const fs::path& folder) {
  auto files = sorted_entries(folder);
  std::erase_if(files, [](const fs::path& path) { return !is_weight_file(path); });
  return files;
}

std::vector<Place> places_beside(const fs::path& file) {
  std::error_code error;
  const fs::path folder = fs::absolute(file, error).lexically_normal().parent_path();
  std::vector<Place> places = {{folder}};
  // ComfyUI: models/unet/flux.gguf, models/vae/ae.safetensors, models/clip/clip_l.safetensors.
  for (const char* name : {"vae", "clip", "text_encoders"}) {
    const fs::path place = folder.parent_path() / name;
    if (fs::is_directory(place, error)) places.push_back({place});
  }
  for (const fs::path& repository : sorted_entries(hugging_face_hub_cache())) {
    for (const fs::path& snapshot : sorted_entries(repository / "snapshots")) {
      places.push_back({snapshot, true});
    }
  }
  std::erase_if(places, [](const Place& place) { return is_other_pipeline(place.folder); });
  return places;
}

std::optional<fs::path> find_part(Component component, const std::vector<Place>& places) {
  std::error_code error;
  for (const Place& place : places) {
    const fs::path folder = place.folder / to_string(component);
    if (fs::exists(folder / "config.json", error)) {
      if (!weight_files_in(folder).empty() && holds_only(folder, component)) return folder;
    } else if (fs::is_directory(folder, error)) {
      if (auto file = file_in(place, folder, component)) return file;
    }
    if (auto file = file_in(place, place.folder, component)) return file;
  }
  return std::nullopt;
}

std::optional<fs::path> find_tokenizer(const std::string& name, const std::vector<Place>& places) {
  std::error_code error;
  const char* const needed = name == "tokenizer" ? "merges.txt" : "spiece.model";
  for (const Place& place : places) {
    const fs::path folder = place.folder / name;
    if (fs::exists(folder / needed, error) || has_tokenizer_of(folder, name)) return folder;
  }
  return std::nullopt;
}

}  // namespace steadyflux
