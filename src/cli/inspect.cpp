// steadyflux inspect: what a model folder, a component folder, a weight file or a picture holds.
// Everything is collected as JSON first; the text for people is made from that.
#include <fmt/format.h>

#include <array>
#include <filesystem>
#include <fstream>

#include "base/bytes.h"
#include "base/json.h"
#include "base/utf8.h"
#include "cli/commands.h"
#include "cli/json_output.h"
#include "cli/model_places.h"
#include "cli/text_output.h"
#include "config/model_config.h"
#include "image/metadata.h"
#include "image/png.h"
#include "steadyflux/error.h"
#include "weights/checkpoint.h"
#include "weights/safetensors.h"

namespace steadyflux::cli {
namespace {

namespace fs = std::filesystem;

// How many tensors, parameters and bytes, and which dtypes.
Json summarize(const std::map<std::string, TensorView>& tensors) {
  std::int64_t parameters = 0;
  std::int64_t bytes = 0;
  std::map<std::string, std::int64_t> dtypes;
  for (const auto& [name, tensor] : tensors) {
    parameters += static_cast<std::int64_t>(tensor.nbytes / item_size(tensor.dtype));
    bytes += static_cast<std::int64_t>(tensor.nbytes);
    ++dtypes[to_string(tensor.dtype)];
  }
  return {{"tensors", tensors.size()},
          {"parameters", parameters},
          {"bytes", bytes},
          {"dtypes", dtypes}};
}

Json list_tensors(const std::map<std::string, TensorView>& tensors) {
  Json list = Json::array();
  for (const auto& [name, tensor] : tensors) {
    list.push_back({{"name", name}, {"dtype", to_string(tensor.dtype)}, {"shape", tensor.shape}});
  }
  return list;
}

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
  const Checkpoint checkpoint = Checkpoint::open(folder);
  Json result = {{"class", class_name(folder)}};
  result.update(summarize(checkpoint.tensors()));
  if (with_tensors) result["tensor_list"] = list_tensors(checkpoint.tensors());
  return result;
}

Json inspect_model(const fs::path& folder, bool with_tensors) {
  const FluxModel model = FluxModel::open(folder);
  Json result = {{"kind", "model"},
                 {"name", model.name},
                 {"variant", model.transformer.guidance_embeds ? "dev" : "schnell"},
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

Json inspect_weights(const fs::path& path, bool with_tensors) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  Json result = {{"kind", "safetensors"}};
  result.update(summarize(file.tensors));
  result["metadata"] = file.metadata;
  if (with_tensors) result["tensor_list"] = list_tensors(file.tensors);
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

Json inspect(const std::string& text, bool with_tensors) {
  const fs::path path = text;
  std::error_code error;
  if (fs::is_directory(path, error)) {
    if (fs::exists(path / "model_index.json", error)) return inspect_model(path, with_tensors);
    Json result = {{"kind", "component"}};
    result.update(inspect_component(path, with_tensors));
    return result;
  }
  if (fs::is_regular_file(path, error)) {
    if (path.extension() == ".safetensors") return inspect_weights(path, with_tensors);
    if (is_png(path)) return inspect_picture(path);
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: neither a model or component folder, a .safetensors file nor a "
                            "PNG picture",
                            printable(text, 200)));
  }
  if (fs::exists(path, error)) {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: not a regular file", printable(text, 200)));
  }
  // Perhaps a model in the Hugging Face cache; the error names all that was tried.
  return inspect_model(resolve_model(text, {}), with_tensors);
}

std::string summary_text(const Json& summary) {
  std::string dtypes;
  for (const auto& [dtype, count] : summary["dtypes"].items()) {
    dtypes +=
        fmt::format("{}{} x {}", dtypes.empty() ? "" : ", ", count.get<std::int64_t>(), dtype);
  }
  return fmt::format("{} parameters, {}, {} tensors ({})",
                     summary["parameters"].get<std::int64_t>(),
                     format_bytes(summary["bytes"].get<std::int64_t>()),
                     summary["tensors"].get<std::int64_t>(), dtypes);
}

std::string tensors_text(const Json& part) {
  std::string text;
  if (!part.contains("tensor_list")) return text;
  for (const Json& tensor : part["tensor_list"]) {
    text += fmt::format("  {:<6}{} {}\n", tensor["dtype"].get<std::string>(),
                        printable(tensor["name"].get<std::string>(), 200),
                        shape_to_string(tensor["shape"].get<std::vector<std::int64_t>>()));
  }
  return text;
}

std::string as_text(const Json& result) {
  const auto kind = result["kind"].get<std::string>();
  std::string text;
  if (kind == "model") {
    const Json& defaults = result["defaults"];
    text = fmt::format("{}: FLUX.1 pipeline, {} variant\n",
                       printable(result["name"].get<std::string>()),
                       result["variant"].get<std::string>());
    text += fmt::format("defaults: {} x {}, {} steps, {} T5 tokens\n", defaults["width"].get<int>(),
                        defaults["height"].get<int>(), defaults["steps"].get<int>(),
                        defaults["max_sequence_length"].get<int>());
    for (const auto& [name, part] : result["components"].items()) {
      text += fmt::format("{:<16}{}\n", name, printable(part["class"].get<std::string>()));
      if (part.contains("tensors")) text += fmt::format("{:<16}{}\n", "", summary_text(part));
      text += tensors_text(part);
    }
  } else if (kind == "picture") {
    if (!result.contains("steadyflux")) return result["parameters"].get<std::string>() + "\n";
    for (const auto& [key, value] : result["steadyflux"].items()) {
      text += fmt::format("{:<22}{}\n", key,
                          value.is_string() ? value.get<std::string>() : value.dump());
    }
  } else {
    if (result.contains("class")) text = printable(result["class"].get<std::string>()) + "\n";
    text += summary_text(result) + "\n";
    if (result.contains("metadata")) {
      for (const auto& [key, value] : result["metadata"].items()) {
        text += fmt::format("metadata {}: {}\n", printable(key),
                            printable(value.get<std::string>(), 200));
      }
    }
    text += tensors_text(result);
  }
  return text;
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
    print_text(as_text(result));
  }
}

}  // namespace steadyflux::cli
