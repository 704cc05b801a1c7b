#include "checkpoints/find_parts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/json.h"
#include "checkpoints/recognise.h"
#include "config/model_config.h"
#include "steadyflux/error.h"
#include "weights/checkpoint.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> sorted_entries(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    found.push_back(it->path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

const char* folder_name(Component component) {
  switch (component) {
    case Component::kTransformer:
      return "transformer";
    case Component::kTextEncoder:
      return "text_encoder";
    case Component::kTextEncoder2:
      return "text_encoder_2";
    case Component::kVae:
      return "vae";
  }
  return "";
}

const char* option_of(Component component) {
  if (component == Component::kTextEncoder) return "--clip-l";
  return component == Component::kTextEncoder2 ? "--t5" : "--vae";
}

// Is it a file of that component and of nothing else? What cannot be read is not.
bool holds_only(const fs::path& file, Component component) {
  try {
    const auto checkpoint = Checkpoint::open(file);
    const auto recognised =
        recognise(checkpoint.tensors(), checkpoint.metadata().value("general.architecture", ""));
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

bool has_weights(const fs::path& folder) {
  const auto entries = sorted_entries(folder);
  return std::any_of(entries.begin(), entries.end(), is_weight_file);
}

std::optional<fs::path> file_in(const fs::path& folder, Component component) {
  std::vector<std::string> found;
  for (const fs::path& path : sorted_entries(folder)) {
    if (is_weight_file(path) && holds_only(path, component)) found.push_back(path.string());
  }
  if (found.size() > 1) {
    throw Error(
        ErrorKind::kBadInput,
        fmt::format("{}: several files would do as {}: {}; name one with {}", folder.string(),
                    folder_name(component), fmt::join(found, ", "), option_of(component)));
  }
  if (found.empty()) return std::nullopt;
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

}  // namespace

std::vector<fs::path> places_beside(const fs::path& file) {
  std::error_code error;
  const fs::path folder = fs::absolute(file, error).lexically_normal().parent_path();
  std::vector<fs::path> places = {folder};
  // ComfyUI: models/unet/flux.gguf, models/vae/ae.safetensors, models/clip/clip_l.safetensors.
  for (const char* name : {"vae", "clip", "text_encoders"}) {
    const fs::path place = folder.parent_path() / name;
    if (fs::is_directory(place, error)) places.push_back(place);
  }
  for (const fs::path& repository : sorted_entries(hugging_face_hub_cache())) {
    for (const fs::path& snapshot : sorted_entries(repository / "snapshots")) {
      places.push_back(snapshot);
    }
  }
  return places;
}

std::optional<fs::path> find_part(Component component, const std::vector<fs::path>& places) {
  std::error_code error;
  for (const fs::path& place : places) {
    const fs::path folder = place / folder_name(component);
    if (fs::is_directory(folder, error) && has_weights(folder)) {
      const bool configured = fs::exists(folder / "config.json", error);
      if (configured) {
        // Folders of other models have the same names.
        const auto checkpoint_fits = [&] {
          try {
            const auto checkpoint = Checkpoint::open(folder);
            const auto recognised = recognise(checkpoint.tensors());
            return recognised.parts.size() == 1 && recognised.parts.front().component == component;
          } catch (const Error&) {
            return false;
          }
        };
        if (checkpoint_fits()) return folder;
      } else if (auto file = file_in(folder, component)) {
        return file;
      }
    }
    if (auto file = file_in(place, component)) return file;
  }
  return std::nullopt;
}

std::optional<fs::path> find_tokenizer(const std::string& name,
                                       const std::vector<fs::path>& places) {
  std::error_code error;
  const char* const needed = name == "tokenizer" ? "merges.txt" : "spiece.model";
  for (const fs::path& place : places) {
    if (is_other_pipeline(place)) continue;
    if (fs::exists(place / name / needed, error)) return place / name;
  }
  return std::nullopt;
}

}  // namespace steadyflux
