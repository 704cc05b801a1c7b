#include "weights/checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <system_error>
#include <vector>

#include "base/json.h"
#include "base/utf8.h"
#include "steadyflux/error.h"
#include "weights/gguf.h"
#include "weights/safetensors.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

// In the order in which diffusers (index first) and transformers (single file first) look.
constexpr std::string_view kNames[] = {"diffusion_pytorch_model.safetensors.index.json",
                                       "diffusion_pytorch_model.safetensors", "model.safetensors",
                                       "model.safetensors.index.json"};

Error bad_input(const fs::path& path, const std::string& what) {
  return Error(ErrorKind::kBadInput, fmt::format("{}: {}", path.string(), what));
}

Error pickle_error(const fs::path& path) {
  return bad_input(
      path,
      "pickled weights are not supported, they can run code when read; convert them to "
      "safetensors in Python: safetensors.torch.save_file(torch.load(file, "
      "weights_only=True), \"x.safetensors\"), or pipe.save_pretrained(folder)");
}

bool is_index(std::string_view name) { return name.ends_with(".json"); }

// model.fp16.safetensors, model.safetensors.index.fp16.json, model.fp16.safetensors.index.json; but
// not the shards model-00001-of-00002.safetensors and model.fp16-00001-of-00002.safetensors.
bool is_variant(std::string_view name) {
  if (!name.starts_with("model.") && !name.starts_with("diffusion_pytorch_model.")) return false;
  if (name.find("-of-") != std::string_view::npos) return false;
  return name.ends_with(".safetensors") ||
         (is_index(name) && name.find(".index.") != std::string_view::npos &&
          name.find("safetensors") != std::string_view::npos);
}

bool is_pickle(std::string_view name) {
  return name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth") ||
         name.ends_with(".ckpt");
}

std::vector<std::string> file_names(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  if (error == std::errc::no_such_file_or_directory || error == std::errc::not_a_directory) {
    throw bad_input(folder, "folder not found; the model folder is incomplete, fetch it again");
  }
  if (error) {
    throw Error(ErrorKind::kIo, fmt::format("{}: {}", folder.string(), error.message()));
  }
  std::sort(names.begin(), names.end());
  return names;
}

bool is_gguf_name(const std::string& name) { return name.ends_with(".gguf"); }

// The single file or the index that describes the component's weights.
fs::path choose(const fs::path& folder) {
  const std::vector<std::string> names = file_names(folder);
  for (const std::string_view name : kNames) {
    if (std::find(names.begin(), names.end(), name) != names.end()) return folder / name;
  }
  std::vector<std::string> variants;
  std::optional<std::string> pickle;
  for (const std::string& name : names) {
    if (is_gguf_name(name)) variants.push_back(name);
    if (is_variant(name)) variants.push_back(name);
    if (is_pickle(name)) pickle = name;
  }
  if (variants.size() == 1) return folder / variants.front();
  if (variants.size() > 1 && std::all_of(variants.begin(), variants.end(), is_gguf_name)) {
    throw bad_input(folder,
                    fmt::format("holds several models, name one of them: {}",
                                printable(fmt::format("{}", fmt::join(variants, ", ")), 400)));
  }
  if (variants.size() > 1) {
    throw bad_input(
        folder,
        fmt::format("holds several variants of the weights ({}); rename the "
                    "one to use to {}",
                    printable(fmt::format("{}", fmt::join(variants, ", ")), 200),
                    is_index(variants.front()) ? "*.safetensors.index.json" : "*.safetensors"));
  }
  if (pickle) {
    throw pickle_error(folder / *pickle);
  }
  throw bad_input(folder,
                  "no weights: expected diffusion_pytorch_model.safetensors, model.safetensors or "
                  "one of them with .index.json and its shards; fetch the model again");
}

// tensor name -> shard file name, checked.
std::map<std::string, std::string> read_weight_map(const fs::path& index) {
  const nlohmann::json json = read_json_object(index);
  const auto entries = json.find("weight_map");
  if (entries == json.end() || !entries->is_object() || entries->empty()) {
    throw bad_input(index, "weight_map is missing or not an object with entries; fetch it again");
  }
  std::map<std::string, std::string> weight_map;
  for (const auto& [tensor, value] : entries->items()) {
    const std::string shard = value.is_string() ? value.get<std::string>() : std::string();
    // The index may only name its neighbours, whoever wrote it.
    const bool plain = !shard.empty() && shard.find_first_of("/\\") == std::string::npos &&
                       shard.find('\0') == std::string::npos && shard.ends_with(".safetensors");
    if (!plain) {
      throw bad_input(index, fmt::format("weight_map: the shard of '{}' is {}, expected the plain "
                                         "name of a .safetensors file",
                                         printable(tensor), printable(value.dump())));
    }
    weight_map.emplace(tensor, shard);
  }
  return weight_map;
}

std::vector<std::byte> first_bytes(const fs::path& file, std::size_t count) {
  std::vector<std::byte> bytes(count);
  std::ifstream stream(file, std::ios::binary);
  stream.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(count));
  bytes.resize(static_cast<std::size_t>(stream.gcount()));
  return bytes;
}

// PyTorch's own formats: a zip archive, or a bare pickle of protocol 2 to 5 as old versions wrote.
bool is_pickle_inside(std::span<const std::byte> beginning) {
  const auto at = [&](std::size_t i) {
    return i < beginning.size() ? std::to_integer<int>(beginning[i]) : -1;
  };
  const bool zip = at(0) == 'P' && at(1) == 'K' && at(2) == 3 && at(3) == 4;
  return zip || (at(0) == 0x80 && at(1) >= 2 && at(1) <= 5 && at(8) != '{');
}

// What downloads leave in place of weights.
void refuse_texts(const fs::path& file, std::span<const std::byte> beginning) {
  const std::string_view text(reinterpret_cast<const char*>(beginning.data()), beginning.size());
  if (text.starts_with("version https://")) {
    throw bad_input(file,
                    "is a pointer of Git LFS, not the weights; fetch them with git lfs pull, or "
                    "with hf download");
  }
  if (text.starts_with("<!DOCTYPE") || text.starts_with("<html") || text.starts_with("<!doctype")) {
    throw bad_input(file, "is a web page, not weights; fetch the file again");
  }
}

}  // namespace

void Checkpoint::read_file(const fs::path& file) {
  path_ = file;
  // What cannot be opened, or is no file, the readers say.
  std::error_code error;
  const auto beginning =
      fs::is_regular_file(file, error) ? first_bytes(file, 16) : std::vector<std::byte>();
  if (is_pickle_inside(beginning)) throw pickle_error(file);
  refuse_texts(file, beginning);
  if (steadyflux::is_gguf(beginning)) {
    GgufFile gguf = GgufFile::open(file);
    tensors_ = std::move(gguf.tensors);
    metadata_ = std::move(gguf.metadata);
    is_gguf_ = true;
  } else {
    SafetensorsFile safetensors = SafetensorsFile::open(file);
    tensors_ = std::move(safetensors.tensors);
    metadata_ = safetensors.metadata;
  }
}

Checkpoint Checkpoint::open(const fs::path& path) {
  Checkpoint checkpoint;
  std::error_code type_error;
  if (fs::is_regular_file(path, type_error)) {
    checkpoint.read_file(path);
    return checkpoint;
  }
  const fs::path& folder = path;
  checkpoint.path_ = choose(folder);
  if (!is_index(checkpoint.path_.filename().string())) {
    checkpoint.read_file(checkpoint.path_);
    return checkpoint;
  }
  std::map<std::string, SafetensorsFile> shards;
  for (const auto& [tensor, name] : read_weight_map(checkpoint.path_)) {
    auto shard = shards.find(name);
    if (shard == shards.end()) {
      const fs::path file = folder / name;
      std::error_code error;
      if (!fs::exists(file, error)) {
        throw bad_input(file, fmt::format("shard not found, though {} lists it; the download is "
                                          "incomplete, fetch the model again",
                                          checkpoint.path_.filename().string()));
      }
      shard = shards.emplace(name, SafetensorsFile::open(file)).first;
    }
    const auto view = shard->second.tensors.find(tensor);
    if (view == shard->second.tensors.end()) {
      throw bad_input(folder / name,
                      fmt::format("lacks the tensor '{}' that {} places there; index and shards do "
                                  "not belong together, fetch the model again",
                                  printable(tensor), checkpoint.path_.filename().string()));
    }
    checkpoint.tensors_.emplace(tensor, view->second);
  }
  return checkpoint;
}

const TensorView* Checkpoint::find(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

}  // namespace steadyflux
