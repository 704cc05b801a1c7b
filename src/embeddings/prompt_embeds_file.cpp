#include "embeddings/prompt_embeds_file.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/file_identity.h"
#include "base/unfinished_file.h"
#include "base/utf8.h"
#include "steadyflux/error.h"
#include "weights/safetensors_writer.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFormat = "steadyflux-prompt-embeds";
// 2 where T5 has texts of its own or prompts are negative: readers that know 1 alone would take no
// notice of that.
constexpr const char* kPlainVersion = "1";
constexpr const char* kVersion = "2";
constexpr const char* kYes = "yes";
constexpr const char* kPromptEmbeds = "prompt_embeds";
constexpr const char* kPooled = "pooled_prompt_embeds";
constexpr std::int64_t kMaxBatch = 100'000;  // more would be a trap: each prompt takes some memory

Error bad_file(const fs::path& path, const std::string& what) {
  return Error(ErrorKind::kBadInput, fmt::format("{}: {}", path.string(), what));
}

DType dtype_of(const std::string& name) {
  if (const auto dtype = dtype_of_compute_name(name)) return *dtype;
  throw Error(ErrorKind::kInternal, fmt::format("prompt embeddings are not kept as '{}'", name));
}

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string checksum_of(std::span<const std::byte> prompt_embeds,
                        std::span<const std::byte> pooled) {
  Fnv1a hash;
  hash.add(text_of(prompt_embeds));
  hash.add(text_of(pooled));
  return fmt::format("{:016x}", hash.value());
}

std::vector<std::byte> copy_of(const TensorView& tensor) {
  const std::span<const std::byte> bytes{tensor.data, tensor.nbytes};
  std::vector<std::byte> copy(bytes.begin(), bytes.end());
  tensor.file->forget(bytes);
  return copy;
}

// Prompt `row` of a tensor that holds one prompt per row.
TensorView row_of(TensorView tensor, std::int64_t row) {
  tensor.nbytes /= static_cast<std::size_t>(tensor.shape[0]);
  tensor.data += static_cast<std::size_t>(row) * tensor.nbytes;
  tensor.shape[0] = 1;
  return tensor;
}

void check_shape(const fs::path& path, const std::string& name, const TensorView& tensor,
                 std::size_t dimensions, const char* expected) {
  bool good = tensor.shape.size() == dimensions;
  for (const std::int64_t side : tensor.shape) good = good && side > 0;
  if (!good) {
    throw bad_file(path, fmt::format("tensor '{}' has the shape {}, expected {}", name,
                                     shape_to_string(tensor.shape), expected));
  }
  if (compute_name(tensor.dtype).empty()) {
    throw bad_file(path, fmt::format("tensor '{}' is {}, expected BF16, F16 or F32", name,
                                     to_string(tensor.dtype)));
  }
}

}  // namespace

PromptEmbedsFile::PromptEmbedsFile(const fs::path& path) : path_(path) {
  SafetensorsFile file = SafetensorsFile::open(path);
  metadata_ = std::move(file.metadata);
  const auto format = metadata_.find("format");
  const auto version = metadata_.find("version");
  if (format != metadata_.end() && format->second == kFormat &&
      (version == metadata_.end() ||
       (version->second != kPlainVersion && version->second != kVersion))) {
    throw bad_file(path, fmt::format("prompt embeddings of format version '{}', this program reads "
                                     "versions {} and {}; encode the prompts again",
                                     version == metadata_.end() ? "" : printable(version->second),
                                     kPlainVersion, kVersion));
  }
  const auto take = [&](const std::string& name, std::size_t dimensions, const char* expected) {
    const auto it = file.tensors.find(name);
    if (it == file.tensors.end()) {
      throw bad_file(path, fmt::format("the tensor '{}' is missing", name));
    }
    TensorView tensor = std::move(it->second);
    file.tensors.erase(it);
    check_shape(path, name, tensor, dimensions, expected);
    return tensor;
  };
  if (file.tensors.count(kPromptEmbeds) > 0) {
    const TensorView prompt_embeds =
        take(kPromptEmbeds, 3, "[prompts, max_sequence_length, joint_attention_dim]");
    const TensorView pooled = take(kPooled, 2, "[prompts, pooled_projection_dim]");
    if (prompt_embeds.shape[0] != pooled.shape[0] || pooled.shape[0] > kMaxBatch) {
      throw bad_file(path, fmt::format("prompt_embeds has {} prompts, pooled_prompt_embeds {}; "
                                       "expected as many, and at most {}",
                                       prompt_embeds.shape[0], pooled.shape[0], kMaxBatch));
    }
    for (std::int64_t i = 0; i < pooled.shape[0]; ++i) {
      add(fmt::format(".{}", i), row_of(prompt_embeds, i), row_of(pooled, i));
    }
  } else {
    for (std::size_t i = 0; file.tensors.count(fmt::format("{}.{}", kPromptEmbeds, i)) > 0; ++i) {
      const std::string suffix = fmt::format(".{}", i);
      const TensorView prompt_embeds =
          take(kPromptEmbeds + suffix, 3, "[1, max_sequence_length, joint_attention_dim]");
      const TensorView pooled = take(kPooled + suffix, 2, "[1, pooled_projection_dim]");
      if (prompt_embeds.shape[0] != 1 || pooled.shape[0] != 1) {
        throw bad_file(path,
                       fmt::format("tensors with the suffix {} hold more than one prompt", suffix));
      }
      add(suffix, prompt_embeds, pooled);
    }
  }
  if (entries_.empty()) {
    throw bad_file(path,
                   "holds no prompt embeddings: expected are the tensors prompt_embeds.0 and "
                   "pooled_prompt_embeds.0, as steadyflux encode writes them");
  }
  // What is not understood might change the picture.
  if (!file.tensors.empty()) {
    throw bad_file(path, fmt::format("unexpected tensor '{}' among {} prompt embeddings",
                                     printable(file.tensors.begin()->first), entries_.size()));
  }
}

void PromptEmbedsFile::add(const std::string& suffix, const TensorView& prompt_embeds,
                           const TensorView& pooled) {
  const auto recorded = [&](const char* key) {
    const auto it = metadata_.find(key + suffix);
    return it == metadata_.end() ? "" : it->second;
  };
  if (prompt_embeds.dtype != pooled.dtype) {
    throw bad_file(path_, fmt::format("prompt {}: prompt_embeds is {}, pooled_prompt_embeds is {}; "
                                      "expected one dtype",
                                      suffix.substr(1), to_string(prompt_embeds.dtype),
                                      to_string(pooled.dtype)));
  }
  Entry entry;
  entry.info.prompt = recorded("prompt");
  entry.info.prompt_2 = recorded("prompt_2");
  entry.info.negative = recorded("negative") == kYes;
  entry.info.max_sequence_length = prompt_embeds.shape[1];
  entry.info.encoder = recorded("encoder");
  entry.info.loras = recorded("loras");
  entry.info.dtype = compute_name(prompt_embeds.dtype);
  entry.info.prompt_embeds_shape = prompt_embeds.shape;
  entry.info.pooled_shape = pooled.shape;
  entry.prompt_embeds = prompt_embeds;
  entry.pooled = pooled;
  entry.checksum = recorded("checksum");
  const std::pair<const char*, std::string> claims[] = {
      {"max_sequence_length", fmt::format("{}", entry.info.max_sequence_length)},
      {"dtype", entry.info.dtype}};
  for (const auto& [key, found] : claims) {
    const std::string claimed = recorded(key);
    if (!claimed.empty() && claimed != found) {
      throw bad_file(path_, fmt::format("prompt {}: the metadata say {} {}, the tensors have {}",
                                        suffix.substr(1), key, printable(claimed), found));
    }
  }
  entries_.push_back(std::move(entry));
}

StoredEmbeds PromptEmbedsFile::load(std::size_t i) const {
  const Entry& entry = entries_.at(i);
  StoredEmbeds embeds = entry.info;
  embeds.prompt_embeds = copy_of(entry.prompt_embeds);
  embeds.pooled = copy_of(entry.pooled);
  if (!entry.checksum.empty() &&
      entry.checksum != checksum_of(embeds.prompt_embeds, embeds.pooled)) {
    throw bad_file(path_, fmt::format("prompt {}: its values are not those that were written; the "
                                      "file is damaged, encode the prompts again",
                                      i));
  }
  return embeds;
}

PromptEmbedsWriter::PromptEmbedsWriter(const fs::path& path, std::vector<StoredEmbeds> contents,
                                       EmbedsWriteOptions options)
    : contents_(std::move(contents)), options_(std::move(options)) {
  for (StoredEmbeds& embeds : contents_) {
    embeds.prompt_embeds.clear();
    embeds.pooled.clear();
    // One item size for all keeps every tensor aligned.
    if (embeds.dtype != contents_.front().dtype) {
      throw Error(ErrorKind::kInternal, "prompt embeddings of several dtypes in one file");
    }
  }
  struct stat info {};
  fs::path target = path;
  if (::stat(path.c_str(), &info) == 0) {
    if (!S_ISREG(info.st_mode)) {
      throw Error(ErrorKind::kIo,
                  fmt::format("{}: is no regular file; prompt embeddings are written to files only",
                              path.string()));
    }
    options_.mode = info.st_mode & 0777;
    std::error_code error;  // a symbolic link stays, and what it points to is replaced
    target = fs::canonical(path, error);
    if (error) {
      throw Error(ErrorKind::kIo,
                  fmt::format("{}: cannot be resolved: {}", path.string(), error.message()));
    }
  }
  fs::path folder = options_.temporary_folder;
  if (folder.empty()) folder = target.has_parent_path() ? target.parent_path() : fs::path(".");
  UnfinishedFile::remove_abandoned(folder, kUnfinishedEmbeds);
  file_ = std::make_unique<UnfinishedFile>(folder, target, options_.mode, kUnfinishedEmbeds);
  const std::vector<std::uint8_t> start = header();
  file_->write(std::as_bytes(std::span(start)));  // made again with the checksums at the end
}

PromptEmbedsWriter::~PromptEmbedsWriter() = default;

std::vector<std::uint8_t> PromptEmbedsWriter::header() const {
  std::map<std::string, std::string> metadata = options_.metadata;
  const bool plain = std::none_of(
      contents_.begin(), contents_.end(),
      [](const StoredEmbeds& embeds) { return embeds.negative || !embeds.prompt_2.empty(); });
  metadata["format"] = kFormat;
  metadata["version"] = plain ? kPlainVersion : kVersion;
  std::vector<TensorLayout> layouts;
  for (std::size_t i = 0; i < contents_.size(); ++i) {
    const StoredEmbeds& embeds = contents_[i];
    const std::string suffix = fmt::format(".{}", i);
    metadata["prompt" + suffix] = embeds.prompt;
    if (!embeds.prompt_2.empty()) metadata["prompt_2" + suffix] = embeds.prompt_2;
    if (embeds.negative) metadata["negative" + suffix] = kYes;
    metadata["max_sequence_length" + suffix] = fmt::format("{}", embeds.max_sequence_length);
    metadata["encoder" + suffix] = embeds.encoder;
    if (!embeds.loras.empty()) metadata["loras" + suffix] = embeds.loras;
    metadata["dtype" + suffix] = embeds.dtype;
    metadata["checksum" + suffix] =
        i < checksums_.size() ? checksums_[i] : std::string(16, '0');  // of the same length
    const DType dtype = dtype_of(embeds.dtype);
    layouts.push_back({kPromptEmbeds + suffix, dtype, embeds.prompt_embeds_shape});
    layouts.push_back({kPooled + suffix, dtype, embeds.pooled_shape});
  }
  return safetensors_header(layouts, metadata);
}

void PromptEmbedsWriter::add(const std::vector<std::byte>& prompt_embeds,
                             const std::vector<std::byte>& pooled) {
  const StoredEmbeds& embeds = contents_.at(checksums_.size());
  const DType dtype = dtype_of(embeds.dtype);
  if (prompt_embeds.size() != tensor_bytes({kPromptEmbeds, dtype, embeds.prompt_embeds_shape}) ||
      pooled.size() != tensor_bytes({kPooled, dtype, embeds.pooled_shape})) {
    throw Error(ErrorKind::kInternal, "prompt embeddings are not as long as their shapes say");
  }
  checksums_.push_back(checksum_of(prompt_embeds, pooled));
  file_->write(prompt_embeds);
  file_->write(pooled);
}

void PromptEmbedsWriter::finish() {
  if (checksums_.size() != contents_.size()) {
    throw Error(ErrorKind::kInternal, "prompt embeddings are missing at the end of their file");
  }
  const std::vector<std::uint8_t> start = header();
  file_->rewrite_start(std::as_bytes(std::span(start)));
  file_->finish(options_.durable);
}

void write_prompt_embeds(const fs::path& path, const std::vector<StoredEmbeds>& embeds) {
  std::vector<StoredEmbeds> contents;
  contents.reserve(embeds.size());
  for (const StoredEmbeds& one : embeds) {
    contents.push_back({.prompt = one.prompt,
                        .prompt_2 = one.prompt_2,
                        .negative = one.negative,
                        .max_sequence_length = one.max_sequence_length,
                        .encoder = one.encoder,
                        .loras = one.loras,
                        .dtype = one.dtype,
                        .prompt_embeds_shape = one.prompt_embeds_shape,
                        .pooled_shape = one.pooled_shape,
                        .prompt_embeds = {},
                        .pooled = {}});
  }
  PromptEmbedsWriter writer(path, std::move(contents));
  for (const StoredEmbeds& one : embeds) writer.add(one.prompt_embeds, one.pooled);
  writer.finish();
}

std::vector<StoredEmbeds> read_prompt_embeds(const fs::path& path) {
  const PromptEmbedsFile file(path);
  std::vector<StoredEmbeds> embeds;
  embeds.reserve(file.size());
  for (std::size_t i = 0; i < file.size(); ++i) embeds.push_back(file.load(i));
  return embeds;
}

}  // namespace steadyflux
