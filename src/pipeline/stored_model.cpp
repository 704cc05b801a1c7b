#include "pipeline/stored_model.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/json.h"
#include "config/transfer_sizes.h"
#include "memory/footprint.h"
#include "steadyflux/error.h"
#include "weights/component_weights.h"
#include "weights/safetensors.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

// "fp64" is stored only: no model computes with it. Quantisations keep their names.
std::string name_of(DType dtype) {
  if (dtype == DType::kF64) return "fp64";
  const auto name = compute_name(dtype);
  return name.empty() ? to_string(dtype) : name;
}

using BytesPerDtype = std::map<DType, std::size_t>;

void add(BytesPerDtype& bytes, const std::map<std::string, TensorView>& tensors) {
  for (const auto& [name, tensor] : tensors) bytes[tensor.dtype] += tensor.nbytes;
}

std::optional<std::string> dominant(const BytesPerDtype& bytes) {
  const auto most = std::max_element(
      bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most == bytes.end()) return std::nullopt;
  return name_of(most->first);
}

// As a unit's buffer has it: every part begins at a multiple of so many bytes.
std::int64_t bytes_in_memory(const StoredRows& rows) {
  std::int64_t bytes = 0;
  for (const auto* view : rows.views()) {
    bytes += rounded_up(static_cast<std::int64_t>(view->nbytes), kTensorAlignment);
  }
  return bytes;
}

// "NF4" and the like: what a tensor's dtype alone does not tell.
std::string quantisation_of(const StoredRows& rows) {
  if (rows.packed->packing == Packing::kCodes4) return "4-bit codes";
  return rows.values.dtype == DType::kI8 ? "LLM.int8" : to_string(rows.values.dtype);
}

StoredWeights describe(const ComponentWeights& weights) {
  auto sizes = std::make_shared<std::map<std::string, StoredSize>>();
  std::map<std::string, std::size_t> bytes;  // by how they are stored
  std::size_t packed = 0, all = 0;
  for (const auto& [name, tensor] : weights.tensors()) {
    const auto size = tensor.nbytes();
    const bool stays_packed = tensor.keeps_packed();
    (*sizes)[name] = {static_cast<std::int64_t>(size),
                      stays_packed ? bytes_in_memory(tensor.first()) : 0};
    bytes[tensor.packed() ? quantisation_of(tensor.first()) : name_of(tensor.dtype())] += size;
    packed += stays_packed ? size : 0;
    all += size;
  }
  const auto most = std::max_element(
      bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return {.dtype = most == bytes.end() ? "bf16" : most->first,
          .packed = 2 * packed > all,
          .sizes = std::move(sizes)};
}

StoredWeights describe_file(const fs::path& path, Component component) {
  const auto checkpoint = Checkpoint::open(path);
  if (const auto weights = ComponentWeights::find_in(checkpoint, component)) {
    return describe(*weights);
  }
  BytesPerDtype bytes;  // whatever it is, its dtype is known
  add(bytes, checkpoint.tensors());
  return {.dtype = dominant(bytes).value_or("bf16")};
}

struct Shards {
  BytesPerDtype bytes = {};  // of those that are there
  bool complete = true;
};

// While a download is going on some of them may be there, or none.
Shards find_shards(const fs::path& folder, const nlohmann::json& index) {
  std::set<std::string> names;
  const auto entries = index.find("weight_map");
  if (entries == index.end() || !entries->is_object()) return {.complete = false};
  for (const auto& [tensor, shard] : entries->items()) {
    if (shard.is_string()) names.insert(shard.get<std::string>());
  }
  Shards shards;
  for (const std::string& name : names) {
    const bool plain =
        name.find_first_of("/\\") == std::string::npos && name.find('\0') == std::string::npos;
    std::error_code error;
    if (plain && fs::is_regular_file(folder / name, error)) {
      add(shards.bytes, SafetensorsFile::open(folder / name).tensors);
    } else {
      shards.complete = false;
    }
  }
  return shards;
}

// 2 bytes a weight may be bf16 or fp16, which makes no difference to any size.
std::optional<std::string> dtype_of_total(const nlohmann::json& index, std::int64_t weights) {
  const auto metadata = index.find("metadata");
  if (weights < 1 || metadata == index.end() || !metadata->is_object()) return std::nullopt;
  const auto total = metadata->find("total_size");
  if (total == metadata->end() || !total->is_number()) return std::nullopt;
  const double each = total->get<double>() / static_cast<double>(weights);
  if (each < 3) return "bf16";
  return each < 6 ? "fp32" : "fp64";
}

bool has_weight_file(const fs::path& folder) {
  std::error_code error;
  fs::directory_iterator it(folder, error);
  return !error && std::any_of(fs::begin(it), fs::end(it), [](const auto& entry) {
    const auto extension = entry.path().extension();
    return extension == ".safetensors" || extension == ".gguf";
  });
}

// The order is that of Checkpoint. `weights` is 0 where their number is not known.
StoredWeights stored_weights(const fs::path& path, Component component, std::int64_t weights) {
  if (path.empty()) return {};  // a part that is not needed
  std::error_code error;
  if (fs::is_regular_file(path, error)) return describe_file(path, component);
  for (const char* name :
       {"diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.safetensors",
        "model.safetensors", "model.safetensors.index.json"}) {
    const fs::path file = path / name;
    if (!fs::exists(file, error)) continue;
    if (!std::string_view(name).ends_with(".json")) return describe_file(file, component);
    const nlohmann::json index = read_json_object(file);
    const auto shards = find_shards(path, index);
    if (shards.complete) return describe_file(path, component);
    if (const auto dtype = dominant(shards.bytes)) return {.dtype = *dtype};
    return {.dtype = dtype_of_total(index, weights).value_or("bf16")};
  }
  return has_weight_file(path) ? describe_file(path, component) : StoredWeights{};
}

// Of files with two bytes a weight.
std::int64_t count_weights(const WeightsFootprint& footprint) {
  std::int64_t bytes = footprint.fixed_file_bytes + footprint.table_file_bytes;
  for (const UnitFootprint& unit : footprint.units) bytes += unit.file_bytes;
  return bytes / element_size("bf16");
}

}  // namespace

StoredModel find_stored_model(const FluxModel& model) {
  const StoredWeights bf16;
  const std::int64_t t5 = count_weights(t5_weights(model.text_encoder_2, "bf16", bf16));
  const std::int64_t flux = count_weights(transformer_weights(model.transformer, "bf16", bf16)) +
                            count_weights(modulation_weights(model.transformer, "bf16", bf16));
  const auto& paths = model.paths;
  return {.text_encoder = stored_weights(paths.text_encoder, Component::kTextEncoder, 0),
          .text_encoder_2 = stored_weights(paths.text_encoder_2, Component::kTextEncoder2, t5),
          .transformer = stored_weights(paths.transformer, Component::kTransformer, flux),
          .vae = stored_weights(paths.vae, Component::kVae, 0),
          .image_encoder = stored_weights(paths.image_encoder, Component::kImageEncoder, 0),
          .image_embedder = stored_weights(paths.image_embedder, Component::kImageEmbedder, 0)};
}

}  // namespace steadyflux
