#include "cli/latents_files.h"

#include <fmt/format.h>

#include <charconv>
#include <memory>
#include <span>

#include "batch/settings_key.h"
#include "image/output_file.h"
#include "steadyflux/error.h"
#include "weights/safetensors.h"
#include "weights/safetensors_writer.h"

namespace steadyflux::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLatents = "latents";
constexpr const char* kPrediction = "prediction";
constexpr const char* kSettings = "settings";
constexpr const char* kStepsDone = "steps_done";
constexpr const char* kFirstResidual = "first_residual";
constexpr const char* kRestResidual = "rest_residual";
constexpr const char* kComputed = "passes_computed";
constexpr const char* kReused = "passes_reused";

std::string cache_name(std::size_t number, const char* part) {
  return fmt::format("step_cache.{}.{}", number, part);
}

DType dtype_of(const std::string& name) { return dtype_of_compute_name(name).value(); }

std::int64_t number(const std::string& text) {
  std::int64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

}  // namespace

LatentsFiles::LatentsFiles(fs::path folder, std::int64_t every, std::string dtype)
    : folder_(std::move(folder)), every_(every), dtype_(std::move(dtype)) {}

fs::path LatentsFiles::path_of(const fs::path& folder, const std::string& output) {
  return folder / fmt::format(".steadyflux-{:016x}.latents", text_hash(output));
}

void LatentsFiles::add(const std::string& output, const std::string& settings) {
  entries_.push_back({path_of(folder_, output), settings});
}

void LatentsFiles::remove(const fs::path& folder, const std::string& output) {
  std::error_code ignored;
  fs::remove(path_of(folder, output), ignored);
}

std::optional<SavedLatents> LatentsFiles::find(std::size_t request, std::int64_t) {
  const auto& entry = entries_[request];
  std::error_code error;
  if (!fs::exists(entry.path, error)) return std::nullopt;
  try {
    const auto file = std::make_shared<const SafetensorsFile>(SafetensorsFile::open(entry.path));
    const auto metadata = [&](const char* name) {
      const auto found = file->metadata.find(name);
      return found == file->metadata.end() ? std::string() : found->second;
    };
    const auto tensor = [&](const std::string& name) -> const TensorView* {
      const auto found = file->tensors.find(name);
      const bool fits = found != file->tensors.end() && found->second.dtype == dtype_of(dtype_);
      return fits ? &found->second : nullptr;
    };
    const auto bytes = [](const auto* stored) {
      return stored == nullptr ? SavedLatents::Bytes()
                               : SavedLatents::Bytes(stored->data, stored->nbytes);
    };
    const auto* latents = tensor(kLatents);
    if (metadata(kSettings) != entry.settings || latents == nullptr) return std::nullopt;
    SavedLatents saved{number(metadata(kStepsDone)), dtype_, latents->shape, bytes(latents)};
    saved.prediction = bytes(tensor(kPrediction));
    while (const auto* first = tensor(cache_name(saved.step_caches.size(), kFirstResidual))) {
      const auto* rest = tensor(cache_name(saved.step_caches.size(), kRestResidual));
      saved.step_caches.push_back({first->shape, bytes(first), bytes(rest)});
    }
    saved.passes = {number(metadata(kComputed)), number(metadata(kReused))};
    saved.owner = file;
    return saved;
  } catch (const Error&) {  // damaged: the picture is made from the beginning
    return std::nullopt;
  }
}

void LatentsFiles::put(std::size_t request, std::int64_t, const SavedLatents& latents) {
  const auto& entry = entries_[request];
  std::vector<TensorToWrite> tensors;
  const auto add = [&](const std::string& name, const std::vector<std::int64_t>& shape,
                       SavedLatents::Bytes bytes) {
    tensors.push_back({{name, dtype_of(latents.dtype), shape}, bytes});
  };
  add(kLatents, latents.shape, latents.values);
  if (!latents.prediction.empty()) add(kPrediction, latents.shape, latents.prediction);
  for (std::size_t i = 0; i < latents.step_caches.size(); ++i) {
    const auto& cache = latents.step_caches[i];
    add(cache_name(i, kFirstResidual), cache.shape, cache.first_residual);
    add(cache_name(i, kRestResidual), cache.shape, cache.rest_residual);
  }
  const auto file =
      safetensors_parts(tensors, {{kSettings, entry.settings},
                                  {kStepsDone, fmt::format("{}", latents.steps_done)},
                                  {kComputed, fmt::format("{}", latents.passes.computed)},
                                  {kReused, fmt::format("{}", latents.passes.reused)}});
  std::vector<std::span<const std::uint8_t>> parts{file.header};
  for (const auto part : file.data) {
    parts.emplace_back(reinterpret_cast<const std::uint8_t*>(part.data()), part.size());
  }
  write_file_atomically(entry.path, FileParts(parts));
}

}  // namespace steadyflux::cli
