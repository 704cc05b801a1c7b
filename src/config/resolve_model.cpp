// From what the user typed after -m to a folder or a file. The hub's cache is only read, never
// written, and nothing is downloaded: the error says which command does that.
#include <fmt/format.h>

#include <algorithm>

#include "base/environment.h"
#include "base/file.h"
#include "base/utf8.h"
#include "config/model_config.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> subfolders(const fs::path& folder) {
  auto found = sorted_entries(folder);
  std::error_code error;
  std::erase_if(found, [&](const fs::path& path) { return !fs::is_directory(path, error); });
  return found;
}

// "org/name", each of letters, digits, '-', '_', '.', and not starting with a dot.
bool is_hub_id(const std::string& spec) {
  const std::size_t slash = spec.find('/');
  if (slash == std::string::npos || spec.find('/', slash + 1) != std::string::npos) return false;
  const auto valid = [](const std::string& part) {
    return !part.empty() && part.front() != '.' &&
           std::all_of(part.begin(), part.end(), [](char c) {
             return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                    c == '-' || c == '_' || c == '.';
           });
  };
  return valid(spec.substr(0, slash)) && valid(spec.substr(slash + 1));
}

std::optional<fs::path> find_in_cache(const fs::path& cache, const std::string& id) {
  const std::size_t slash = id.find('/');
  const fs::path repository =
      cache / ("models--" + id.substr(0, slash) + "--" + id.substr(slash + 1));
  const fs::path ref = repository / "refs" / "main";
  std::error_code error;
  if (fs::exists(ref, error)) {
    std::string revision = read_text_file(ref, 1024);
    while (!revision.empty() && static_cast<unsigned char>(revision.back()) <= ' ') {
      revision.pop_back();
    }
    if (revision.empty() ||
        revision.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{}: holds '{}', expected a commit hash; run: hf download {}",
                              ref.string(), printable(revision), id));
    }
    const fs::path snapshot = repository / "snapshots" / revision;
    if (fs::is_directory(snapshot, error)) return snapshot;
  }
  const std::vector<fs::path> snapshots = subfolders(repository / "snapshots");
  if (snapshots.size() == 1) return snapshots.front();
  return std::nullopt;
}

bool is_file_name(const std::string& spec) {
  for (const char* extension : {".safetensors", ".gguf", ".sft", ".ckpt", ".pt", ".pth", ".bin"}) {
    if (spec.ends_with(extension)) return true;
  }
  return false;
}

struct HubFile {
  std::string id;    // "city96/FLUX.1-schnell-gguf"
  std::string file;  // "flux1-schnell-Q4_K_S.gguf"
};

// "org/name/path/in/the/repository.gguf"
std::optional<HubFile> split_hub_file(const std::string& spec) {
  const std::size_t first = spec.find('/');
  if (first == std::string::npos || !is_file_name(spec)) return std::nullopt;
  const std::size_t second = spec.find('/', first + 1);
  if (second == std::string::npos || spec.find("..") != std::string::npos) return std::nullopt;
  const std::string id = spec.substr(0, second);
  if (!is_hub_id(id)) return std::nullopt;
  return HubFile{id, spec.substr(second + 1)};
}

constexpr const char* kModelExpected =
    "a FLUX.1 model in the diffusers layout, a single file or a hub id such as "
    "black-forest-labs/FLUX.1-schnell";
constexpr const char* kReduxExpected =
    "FLUX.1-Redux in the diffusers layout, its single file or a hub id such as "
    "black-forest-labs/FLUX.1-Redux-dev";

fs::path resolve_spec(const std::string& spec, const char* expected = kModelExpected) {
  std::error_code error;
  if (fs::is_directory(spec, error) || fs::is_regular_file(spec, error)) return spec;
  if (const auto split = split_hub_file(spec)) {
    const auto& [id, file] = *split;
    const fs::path cache = hugging_face_hub_cache();
    const auto folder = find_in_cache(cache, id);
    if (folder && fs::is_regular_file(*folder / file, error)) return *folder / file;
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: neither a file nor in the Hugging Face cache ({}); fetch it with: "
                            "hf download {} {}",
                            printable(spec, 200), cache.string(), id, file));
  }
  if (is_hub_id(spec) && !is_file_name(spec)) {
    const fs::path cache = hugging_face_hub_cache();
    if (const auto folder = find_in_cache(cache, spec)) return *folder;
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: neither a folder nor in the Hugging Face cache ({}); fetch it "
                            "with: hf download {}",
                            spec, cache.string(), spec));
  }
  throw Error(ErrorKind::kBadInput, fmt::format("{}: no such {}; give {}", printable(spec, 200),
                                                is_file_name(spec) ? "file" : "folder", expected));
}

}  // namespace

fs::path hugging_face_hub_cache() {
  if (const auto cache = environment("HF_HUB_CACHE"); !cache.empty()) return cache;
  if (const auto home = environment("HF_HOME"); !home.empty()) return fs::path(home) / "hub";
  if (const auto cache = environment("XDG_CACHE_HOME"); !cache.empty()) {
    return fs::path(cache) / "huggingface" / "hub";
  }
  const auto home = environment("HOME");
  return fs::path(home.empty() ? "." : home) / ".cache" / "huggingface" / "hub";
}

fs::path resolve_model(const std::optional<std::string>& spec,
                       const std::vector<fs::path>& model_dirs) {
  // Where a variable of a script is empty, another model's picture would be a surprise.
  if (spec && spec->empty()) {
    throw Error(
        ErrorKind::kUsage,
        "-m: the model's name is empty; give a folder, a file or a hub id, or leave -m out");
  }
  if (spec) return resolve_spec(*spec);
  if (const auto from_environment = environment("STEADYFLUX_MODEL"); !from_environment.empty()) {
    return resolve_spec(from_environment);
  }
  std::string looked_in;
  for (const fs::path& models : model_dirs) {
    for (const fs::path& folder : subfolders(models)) {
      std::error_code error;
      if (fs::exists(folder / "model_index.json", error)) return folder;
    }
    looked_in += (looked_in.empty() ? "" : ", ") + models.string();
  }
  throw Error(ErrorKind::kBadInput,
              fmt::format("no bundled model found (looked in: {}); name one with -m FOLDER or "
                          "STEADYFLUX_MODEL",
                          looked_in.empty() ? "nowhere" : looked_in));
}

fs::path resolve_redux(const std::string& spec) {
  if (spec.empty()) {
    throw Error(ErrorKind::kUsage,
                "--redux: the name is empty; give a folder, a file or a hub id, or leave it out");
  }
  return resolve_spec(spec, kReduxExpected);
}

}  // namespace steadyflux
