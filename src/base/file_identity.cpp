#include "base/file_identity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <system_error>

#include "steadyflux/error.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

constexpr std::uintmax_t kWhole = 1 << 20;
constexpr std::uintmax_t kEnd = 64 << 10;
constexpr std::uintmax_t kPage = 4 << 10;
constexpr std::uintmax_t kPages = 62;

Error cannot_read(const fs::path& path, const std::string& reason) {
  return Error(ErrorKind::kIo, fmt::format("{}: cannot be read: {}", path.string(), reason));
}

bool is_model_file(const fs::path& path) {
  const std::string extension = path.extension().string();
  return path.filename().string().front() != '.' &&
         (extension == ".json" || extension == ".txt" || extension == ".model" ||
          extension == ".safetensors" || extension == ".gguf");
}

void add_range(Fnv1a& hash, std::ifstream& in, const fs::path& path, std::uintmax_t begin,
               std::uintmax_t size) {
  std::string buffer(static_cast<std::size_t>(size), '\0');
  in.seekg(static_cast<std::streamoff>(begin));
  in.read(buffer.data(), static_cast<std::streamsize>(size));
  if (!in) throw cannot_read(path, "it ended early");
  hash.add(buffer);
}

void add_file(Fnv1a& hash, const fs::path& path) {
  std::error_code error;
  const std::uintmax_t size = fs::file_size(path, error);
  if (error) throw cannot_read(path, error.message());
  std::ifstream in(path, std::ios::binary);
  if (!in) throw cannot_read(path, std::strerror(errno));
  hash.add(fmt::format("{};", size));
  if (size <= kWhole) {
    add_range(hash, in, path, 0, size);
    return;
  }
  add_range(hash, in, path, 0, kEnd);
  const std::uintmax_t stride = (size - 2 * kEnd) / kPages;  // above kPage: the file is > 1 MiB
  for (std::uintmax_t i = 0; i < kPages; ++i) add_range(hash, in, path, kEnd + i * stride, kPage);
  add_range(hash, in, path, size - kEnd, kEnd);
}

}  // namespace

std::vector<fs::path> list_model_files(const fs::path& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    throw Error(ErrorKind::kBadInput, folder.string() + ": no such model folder");
  }
  std::vector<fs::path> files;
  fs::recursive_directory_iterator entry(folder, error);
  while (!error && entry != fs::recursive_directory_iterator()) {
    if (entry->is_directory(error) && entry->path().filename().string().front() == '.') {
      entry.disable_recursion_pending();
    } else if (entry->is_regular_file(error) && is_model_file(entry->path())) {
      files.push_back(entry->path().lexically_relative(folder));
    }
    entry.increment(error);
  }
  if (error) throw cannot_read(folder, error.message());
  std::sort(files.begin(), files.end());
  return files;
}

std::string files_identity(const std::vector<NamedFile>& files) {
  Fnv1a hash;
  for (const NamedFile& file : files) {
    hash.add(file.name + ";");
    add_file(hash, file.path);
  }
  return fmt::format("{:016x}", hash.value());
}

}  // namespace steadyflux
