#include "cli/latents_files.h"

#include <fmt/format.h>

#include <charconv>
#include <cstring>

#include "batch/settings_key.h"
#include "image/output_file.h"
#include "steadyflux/error.h"
#include "weights/safetensors.h"
#include "weights/safetensors_writer.h"

namespace steadyflux::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTensor = "latents";
constexpr const char* kPrediction = "prediction";
constexpr const char* kSettings = "settings";
constexpr const char* kStepsDone = "steps_done";

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
    const auto file = SafetensorsFile::open(entry.path);
    const auto settings = file.metadata.find(kSettings);
    const auto steps = file.metadata.find(kStepsDone);
    const auto tensor = file.tensors.find(kTensor);
    if (settings == file.metadata.end() || settings->second != entry.settings ||
        steps == file.metadata.end() || tensor == file.tensors.end() ||
        tensor->second.dtype != dtype_of(dtype_)) {
      return std::nullopt;
    }
    const auto values_of = [](const auto& stored) {
      std::vector<std::byte> bytes(stored.nbytes);
      std::memcpy(bytes.data(), stored.data, bytes.size());
      return bytes;
    };
    SavedLatents saved;
    saved.steps_done = number(steps->second);
    saved.dtype = dtype_;
    saved.shape = tensor->second.shape;
    saved.values = values_of(tensor->second);
    const auto prediction = file.tensors.find(kPrediction);
    if (prediction != file.tensors.end()) saved.prediction = values_of(prediction->second);
    return saved;
  } catch (const Error&) {  // damaged: the picture is made from the beginning
    return std::nullopt;
  }
}

void LatentsFiles::put(std::size_t request, std::int64_t, const SavedLatents& latents) {
  const auto& entry = entries_[request];
  const auto dtype = dtype_of(latents.dtype);
  std::vector<TensorToWrite> tensors{{{kTensor, dtype, latents.shape}, latents.values}};
  if (!latents.prediction.empty()) {
    tensors.push_back({{kPrediction, dtype, latents.shape}, latents.prediction});
  }
  write_file_atomically(
      entry.path,
      safetensors_bytes(tensors, {{kSettings, entry.settings},
                                  {kStepsDone, fmt::format("{}", latents.steps_done)}}));
}

}  // namespace steadyflux::cli
