#include "pipeline/workload.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "memory/footprint.h"
#include "steadyflux/error.h"
#include "weights/checkpoint.h"
#include "weights/safetensors.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

// "fp64" is stored only: no model computes with it.
std::string name_of(DType dtype) {
  if (dtype == DType::kF64) return "fp64";
  const auto name = compute_name(dtype);
  return name.empty() ? "fp32" : name;
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

// The shards that are there; while a download is going on that may be some of them, or none.
std::optional<std::string> dtype_of_shards(const fs::path& folder, const nlohmann::json& index) {
  std::set<std::string> shards;
  const auto entries = index.find("weight_map");
  if (entries == index.end() || !entries->is_object()) return std::nullopt;
  for (const auto& [tensor, shard] : entries->items()) {
    if (shard.is_string()) shards.insert(shard.get<std::string>());
  }
  BytesPerDtype bytes;
  for (const std::string& shard : shards) {
    const bool plain =
        shard.find_first_of("/\\") == std::string::npos && shard.find('\0') == std::string::npos;
    std::error_code error;
    if (plain && fs::is_regular_file(folder / shard, error)) {
      add(bytes, SafetensorsFile::open(folder / shard).tensors);
    }
  }
  return dominant(bytes);
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

// The order is that of Checkpoint. `weights` is 0 where their number is not known.
std::string stored_dtype(const fs::path& folder, std::int64_t weights) {
  std::error_code error;
  for (const char* name :
       {"diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.safetensors",
        "model.safetensors", "model.safetensors.index.json"}) {
    const fs::path file = folder / name;
    if (!fs::exists(file, error)) continue;
    if (!std::string_view(name).ends_with(".json")) {
      BytesPerDtype bytes;
      add(bytes, SafetensorsFile::open(file).tensors);
      return dominant(bytes).value_or("bf16");
    }
    const nlohmann::json index = read_json_object(file);
    if (const auto dtype = dtype_of_shards(folder, index)) return *dtype;
    return dtype_of_total(index, weights).value_or("bf16");
  }
  fs::directory_iterator it(folder, error);
  const bool has_variant = !error && std::any_of(fs::begin(it), fs::end(it), [](const auto& entry) {
    return entry.path().extension() == ".safetensors";
  });
  if (!has_variant) return "bf16";
  BytesPerDtype bytes;
  add(bytes, Checkpoint::open(folder).tensors());
  return dominant(bytes).value_or("bf16");
}

// Of files with one byte a weight.
std::int64_t count_weights(const WeightsFootprint& footprint) {
  std::int64_t count = footprint.fixed_file_bytes + footprint.table_file_bytes;
  for (const UnitFootprint& unit : footprint.units) count += unit.file_bytes;
  return count;
}

}  // namespace

StoredDtypes find_stored_dtypes(const ModelFolder& model) {
  const std::int64_t t5 = count_weights(t5_weights(model.text_encoder_2, "bf16", 1));
  const std::int64_t flux = count_weights(transformer_weights(model.transformer, "bf16", 1)) +
                            count_weights(modulation_weights(model.transformer, "bf16", 1));
  return {.text_encoder = stored_dtype(model.root / "text_encoder", 0),
          .text_encoder_2 = stored_dtype(model.root / "text_encoder_2", t5),
          .transformer = stored_dtype(model.root / "transformer", flux),
          .vae = stored_dtype(model.root / "vae", 0)};
}

Workload make_workload(const Chunk& chunk, const StoredDtypes& stored, const std::string& dtype,
                       int num_threads) {
  Workload work;
  work.width = work.height = work.num_inference_steps = work.max_sequence_length = 0;
  for (const Request& request : chunk.requests) {
    if (request.width * request.height > work.width * work.height) {
      work.width = request.width;
      work.height = request.height;
    }
    work.num_inference_steps = std::max(work.num_inference_steps, request.num_inference_steps);
    work.max_sequence_length = std::max(work.max_sequence_length, request.max_sequence_length);
  }
  work.num_images = static_cast<std::int64_t>(chunk.pictures.size());
  work.num_prompts = static_cast<std::int64_t>(chunk.prompts.size());
  work.num_encoded = work.num_prompts;
  work.num_tables = static_cast<std::int64_t>(chunk.tables.size());
  work.num_threads = num_threads;
  work.dtype = dtype != "auto" ? dtype : stored.transformer == "fp64" ? "fp32" : stored.transformer;
  work.stored = stored;
  return work;
}

std::size_t best_chunk_size(const ModelFolder& model, std::span<const Request> requests,
                            const StoredDtypes& stored, const std::string& dtype, int num_threads,
                            const Budget& budget, const PlanOptions& options) {
  std::size_t best = 1;
  double best_cost = std::numeric_limits<double>::infinity();
  for (auto size = requests.size(); size > 0; size /= 2) {
    const auto workload =
        make_workload(make_chunk(model, requests.first(size)), stored, dtype, num_threads);
    const auto plan = make_plan(model, workload, budget, options);
    if (!plan.fits) continue;
    const auto cost = static_cast<double>(traffic(plan)) / static_cast<double>(workload.num_images);
    if (cost >= best_cost) continue;
    best = size;
    best_cost = cost;
  }
  return best;
}

}  // namespace steadyflux
