#include "embeddings/kept_identity.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <system_error>
#include <vector>

#include "base/file.h"
#include "base/file_identity.h"
#include "base/file_io.h"
#include "base/unfinished_file.h"
#include "embeddings/prompt_embeds_file.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

constexpr const char* kKept = "encoders";  // below the cache's folder
constexpr std::size_t kDigits = 16;
// File systems count time in ticks: a file changed again within one may look as before.
constexpr std::int64_t kSettledSeconds = 2;

// What changes when a file does, without opening it.
struct Fingerprint {
  std::string text;
  std::int64_t newest = 0;  // seconds
};

Fingerprint fingerprint_of(const std::vector<NamedFile>& files) {
  Fingerprint result;
  for (const NamedFile& file : files) {
    struct stat info {};
    if (::stat(file.path.c_str(), &info) != 0) {
      throw io_error(file.path, "cannot be read", errno);
    }
    result.text += fmt::format("{}:{}:{}:{}.{:09}:{}.{:09}:{}\n", info.st_dev, info.st_ino,
                               info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec,
                               info.st_ctim.tv_sec, info.st_ctim.tv_nsec, file.name);
    result.newest =
        std::max<std::int64_t>({result.newest, info.st_mtim.tv_sec, info.st_ctim.tv_sec});
  }
  return result;
}

fs::path kept_path(const fs::path& cache_folder, const std::vector<NamedFile>& files) {
  std::error_code error;
  Fnv1a hash;
  for (const NamedFile& file : files) {
    hash.add(file.name + "\n" + fs::canonical(file.path, error).string() + "\n");
  }
  return cache_folder / kKept / fmt::format("{:016x}.txt", hash.value());
}

bool is_identity(std::string_view text) {
  return text.size() == kDigits &&
         text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// The file holds the identity, and on the lines below it the fingerprint it belongs to.
std::optional<std::string> read_kept(const fs::path& path, const Fingerprint& fingerprint) {
  try {
    const std::string text = read_text_file(path, 1 << 20);
    const std::string identity = text.substr(0, kDigits);
    if (is_identity(identity) && text == identity + "\n" + fingerprint.text) return identity;
  } catch (const Error&) {
    // Not there, or no longer readable.
  }
  return std::nullopt;
}

void keep(const fs::path& path, const std::string& identity, const Fingerprint& fingerprint) {
  if (fingerprint.newest + kSettledSeconds >= ::time(nullptr)) return;
  try {
    make_private_folder(path.parent_path());
    UnfinishedFile::remove_abandoned(path.parent_path(), kUnfinishedEmbeds);
    UnfinishedFile file(path.parent_path(), path, 0600, kUnfinishedEmbeds);
    const std::string text = identity + "\n" + fingerprint.text;
    file.write(std::as_bytes(std::span(text)));
    file.finish(false);
  } catch (const Error&) {
    // It is computed again next time.
  }
}

}  // namespace

std::string kept_identity(const std::vector<NamedFile>& files, const fs::path& cache_folder) {
  if (cache_folder.empty()) return files_identity(files);
  const Fingerprint fingerprint = fingerprint_of(files);
  const fs::path path = kept_path(cache_folder, files);
  if (auto kept = read_kept(path, fingerprint)) return *kept;
  std::string identity = files_identity(files);
  keep(path, identity, fingerprint);
  return identity;
}

void forget_identities(const fs::path& cache_folder) {
  std::error_code error;
  UnfinishedFile::remove_abandoned(cache_folder / kKept, kUnfinishedEmbeds);
  fs::directory_iterator entry(cache_folder / kKept, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    const fs::path& path = entry->path();
    if (path.extension() == ".txt" && is_identity(path.stem().string())) ::unlink(path.c_str());
  }
}

}  // namespace steadyflux
