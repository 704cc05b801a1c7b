// steadyflux inspect: what a model folder, a component folder, a weight file or a picture holds.
// Everything is collected as JSON first; inspect_text.h makes the text for people from that.
#include <fmt/format.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <span>

#include "base/json.h"
#include "base/utf8.h"
#include "checkpoints/open_model.h"
#include "cli/commands.h"
#include "cli/inspect_text.h"
#include "cli/inspect_weights.h"
#include "cli/json_output.h"
#include "cli/model_places.h"
#include "cli/text_output.h"
#include "config/model_config.h"
#include "image/metadata.h"
#include "image/png.h"
#include "steadyflux/error.h"
#include "weights/gguf.h"

namespace steadyflux::cli {
namespace {

namespace fs = std::filesystem;

std::string class_name(const fs::path& component) {
  std::error_code error;
  for (const char* file : {"config.json", "scheduler_config.json", "tokenizer_config.json"}) {
    if (!fs::exists(component / file, error)) continue;
    const nlohmann::json config = read_json_object(component / file);
    for (const char* key : {"_class_name", "tokenizer_class"}) {
      if (config.contains(key) && config[key].is_string()) return config[key].get<std::string>();
    }
    if (config.contains("architectures") && config["architectures"].is_array() &&
        !config["architectures"].empty() && config["architectures"][0].is_string()) {
      return config["architectures"][0].get<std::string>();
    }
  }
  return "";
}

Json inspect_component(const fs::path& folder, bool with_tensors) {
  Json result = {{"class", class_name(folder)}};
  result.update(inspect_weights(folder, with_tensors));
  return result;
}

// FLUX.1-Redux has a model_index.json too.
bool is_redux(const fs::path& folder) {
  const auto index = read_json_object(folder / "model_index.json");
  const auto name = index.find("_class_name");
  return name != index.end() && *name == "FluxPriorReduxPipeline";
}

Json inspect_redux(const fs::path& folder, bool with_tensors) {
  const auto redux = open_redux(folder).config;
  const fs::path normal = fs::absolute(folder).lexically_normal();
  Json result = {
      {"kind", "redux"},
      {"name", (normal.has_filename() ? normal : normal.parent_path()).filename().string()},
      {"image_size", redux.image_encoder.image_size},
      {"tokens", redux.num_tokens()},
      {"width", redux.image_embedder.txt_in_features}};
  for (const char* part : {"image_encoder", "image_embedder"}) {
    result["components"][part] = inspect_component(folder / part, with_tensors);
  }
  return result;
}

Json inspect_model(const fs::path& folder, bool with_tensors) {
  const FluxModel model = FluxModel::open(folder);
  Json result = {{"kind", "model"},
                 {"name", model.name},
                 {"variant", short_name(model.variant())},
                 {"defaults",
                  {{"width", model.defaults.width},
                   {"height", model.defaults.height},
                   {"steps", model.defaults.num_inference_steps},
                   {"guidance", nullptr},
                   {"max_sequence_length", model.defaults.max_sequence_length}}}};
  if (model.transformer.guidance_embeds) {
    result["defaults"]["guidance"] = model.defaults.guidance_scale;
  }
  for (const char* part : {"tokenizer", "tokenizer_2", "scheduler"}) {
    result["components"][part] = {{"class", class_name(folder / part)}};
  }
  for (const char* part : {"text_encoder", "text_encoder_2", "transformer", "vae"}) {
    result["components"][part] = inspect_component(folder / part, with_tensors);
  }
  return result;
}

Json inspect_picture(const fs::path& path) {
  const auto texts = read_png_text(path);
  Json result = {{"kind", "picture"}};
  if (const auto it = texts.find(kPngSteadyflux); it != texts.end()) {
    result["steadyflux"] = Json::parse(to_json(metadata_from_json(it->second, path.string())));
  }
  if (const auto it = texts.find(kPngParameters); it != texts.end()) {
    result["parameters"] = it->second;
  }
  if (result.size() == 1) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: does not say how it was made", path.string()));
  }
  return result;
}

bool is_png(const fs::path& path) {
  constexpr std::array<char, 8> kSignature = {'\x89', 'P', 'N', 'G', '\r', '\n', '\x1a', '\n'};
  std::array<char, 8> start{};
  std::ifstream file(path, std::ios::binary);
  return file.read(start.data(), start.size()) && start == kSignature;
}

// Is it a file of weights, or was it meant to be one? The reader of weights says what is wrong.
bool is_weights(const fs::path& path) {
  for (const char* extension : {".safetensors", ".sft", ".gguf", ".bin", ".pt", ".pth", ".ckpt"}) {
    if (path.extension() == extension) return true;
  }
  std::array<char, 4> start{};
  std::ifstream file(path, std::ios::binary);
  return file.read(start.data(), start.size()) && is_gguf(std::as_bytes(std::span(start)));
}

Json inspect(const std::string& text, bool with_tensors) {
  const fs::path path = text;
  std::error_code error;
  if (fs::is_directory(path, error)) {
    if (fs::exists(path / "model_index.json", error)) {
      return is_redux(path) ? inspect_redux(path, with_tensors) : inspect_model(path, with_tensors);
    }
    Json result = inspect_component(path, with_tensors);
    result["kind"] = "component";
    return result;
  }
  if (fs::is_regular_file(path, error)) {
    if (is_weights(path)) return inspect_weights(path, with_tensors);
    if (is_png(path)) return inspect_picture(path);
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: neither a model or component folder, a .safetensors or .gguf file "
                            "nor a PNG picture",
                            printable(text, 200)));
  }
  if (fs::exists(path, error)) {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: not a regular file", printable(text, 200)));
  }
  // Perhaps a model in the Hugging Face cache, or a file of one; the error names all that was
  // tried.
  return inspect(resolve_model(text, {}).string(), with_tensors);
}

}  // namespace

void run_inspect(const CommandLine& line) {
  if (!line.positional) {
    throw Error(ErrorKind::kUsage, "no path given; try: steadyflux inspect out.png");
  }
  const Json result = inspect(*line.positional, line.typed.verbose);
  if (line.typed.json) {
    print_json(result);
  } else {
    print_text(inspect_text(result, line.typed.verbose));
  }
}

}  // namespace steadyflux::cli
