#include "embeddings/embeds_cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <random>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/environment.h"
#include "base/file_identity.h"
#include "base/file_io.h"
#include "base/unfinished_file.h"
#include "embeddings/kept_identity.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kDefaultLimit = std::int64_t{2} << 30;
constexpr const char* kEntries = "embeds";  // below the cache's folder
constexpr const char* kUnfinished = "embeds/tmp";
constexpr const char* kKeyEntry = "cache_key";  // in the metadata of an entry
constexpr std::size_t kNameDigits = 16;

struct CacheEntry {
  fs::path path;
  std::int64_t bytes = 0;
  fs::file_time_type used = {};
};

// One text for one key. JSON keeps apart what a plain concatenation could mix up. Throws
// nlohmann::json::exception for a prompt that is not UTF-8.
std::string key_text(const EmbedsKey& key) {
  nlohmann::ordered_json text = {
      {"version", 2},  // of how encoders compute
      {"encoder", key.encoder}, {"max_sequence_length", key.max_sequence_length},
      {"dtype", key.dtype},     {"computed_by", key.computed_by},
      {"prompt", key.prompt}};
  if (!key.prompt_2.empty()) text["prompt_2"] = key.prompt_2;
  return text.dump();
}

bool is_hexadecimal(std::string_view text, std::size_t digits) {
  return text.size() == digits &&
         text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// The files that are entries by their names; others in the folder are none of the cache's business.
std::vector<CacheEntry> list_entries(const fs::path& folder) {
  std::vector<CacheEntry> entries;
  std::error_code error;
  fs::directory_iterator part(folder / kEntries, error);
  for (; !error && part != fs::directory_iterator(); part.increment(error)) {
    if (!is_hexadecimal(part->path().filename().string(), 2)) continue;
    std::error_code inner;
    fs::directory_iterator file(part->path(), inner);
    for (; !inner && file != fs::directory_iterator(); file.increment(inner)) {
      const fs::path& path = file->path();
      if (path.extension() != ".safetensors" ||
          !is_hexadecimal(path.stem().string(), kNameDigits)) {
        continue;
      }
      // Others may remove an entry between two of these calls.
      std::error_code gone;
      CacheEntry entry{path, static_cast<std::int64_t>(file->file_size(gone)), {}};
      if (!gone) entry.used = file->last_write_time(gone);
      if (!gone) entries.push_back(std::move(entry));
    }
  }
  return entries;
}

EmbedsCache::Summary summarize(const std::vector<CacheEntry>& entries) {
  EmbedsCache::Summary summary;
  for (const CacheEntry& entry : entries) {
    ++summary.entries;
    summary.bytes += entry.bytes;
    summary.oldest = std::min(summary.oldest.value_or(entry.used), entry.used);
    summary.newest = std::max(summary.newest.value_or(entry.used), entry.used);
  }
  return summary;
}

}  // namespace

fs::path cache_folder() {
  if (const auto folder = environment("STEADYFLUX_CACHE"); !folder.empty()) return folder;
  const fs::path xdg = environment("XDG_CACHE_HOME");
  if (xdg.is_absolute()) return xdg / "steadyflux";  // its specification: ignore relative ones
  const fs::path home = environment("HOME");
  return home.is_absolute() ? home / ".cache" / "steadyflux" : fs::path();
}

std::int64_t cache_size_limit() {
  const std::string text = environment("STEADYFLUX_CACHE_SIZE");
  if (text.empty()) return kDefaultLimit;
  try {
    return parse_bytes(text);
  } catch (const Error& error) {
    throw Error(error.kind(), fmt::format("STEADYFLUX_CACHE_SIZE: {}", error.what()));
  }
}

EmbedsCache::EmbedsCache(fs::path folder, std::int64_t size_limit)
    : folder_(std::move(folder)), size_limit_(size_limit) {
  // Each run looks at the whole cache once per 64th part of its limit that it puts there; runs that
  // put less begin somewhere in between, so that of many one does look.
  std::random_device random;
  unseen_bytes_ = static_cast<std::int64_t>(random() % 1024) * (size_limit_ / 64) / 1024;
}

fs::path EmbedsCache::entry_path(const std::string& text) const {
  Fnv1a hash;
  hash.add(text);
  // The last characters reach the first digits as well (the finalizer of MurmurHash3).
  std::uint64_t mixed = hash.value();
  mixed = (mixed ^ (mixed >> 33)) * 0xff51afd7ed558ccdull;
  mixed = (mixed ^ (mixed >> 33)) * 0xc4ceb9fe1a85ec53ull;
  const std::string name = fmt::format("{:016x}", mixed ^ (mixed >> 33));
  return folder_ / kEntries / name.substr(0, 2) / (name + ".safetensors");
}

std::optional<StoredEmbeds> EmbedsCache::find(const EmbedsKey& key) {
  if (folder_.empty()) return std::nullopt;
  try {
    const std::string text = key_text(key);
    const fs::path path = entry_path(text);
    auto embeds = read_entry(path, text);
    // This may fail: a cache that cannot be written to is read all the same.
    if (embeds) ::utimensat(AT_FDCWD, path.c_str(), nullptr, 0);
    return embeds;
  } catch (const Error& error) {
    warn(error.what());
  } catch (const nlohmann::json::exception&) {
    // Not UTF-8: such a prompt has no key.
  }
  return std::nullopt;
}

std::optional<StoredEmbeds> EmbedsCache::read_entry(const fs::path& path, const std::string& text) {
  // Twice, because other processes remove and replace entries: what is bad the second time as well
  // is damaged.
  std::string damage;
  for (int attempt = 0; attempt < 2; ++attempt) {
    if (::access(path.c_str(), F_OK) != 0) return std::nullopt;
    try {
      const PromptEmbedsFile file(path);
      const auto kept = file.metadata().find(kKeyEntry);
      if (kept == file.metadata().end() || kept->second != text) return std::nullopt;
      return file.load(0);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kBadInput) throw;
      damage = error.what();
    }
  }
  if (::unlink(path.c_str()) == 0) warn(damage + "; it was removed");
  return std::nullopt;
}

void EmbedsCache::put(const EmbedsKey& key, const StoredEmbeds& embeds) {
  if (folder_.empty()) {
    warn("there is no place for it: neither HOME nor STEADYFLUX_CACHE is set");
    return;
  }
  const auto bytes = static_cast<std::int64_t>(embeds.prompt_embeds.size() + embeds.pooled.size());
  if (bytes > size_limit_) return;
  try {
    const std::string text = key_text(key);
    const fs::path path = entry_path(text);
    make_private_folder(folder_ / kUnfinished);
    make_private_folder(path.parent_path());
    PromptEmbedsWriter writer(path,
                              {{.prompt = key.prompt,
                                .prompt_2 = key.prompt_2,
                                .max_sequence_length = key.max_sequence_length,
                                .encoder = key.encoder,
                                .loras = {},
                                .dtype = key.dtype,
                                .prompt_embeds_shape = embeds.prompt_embeds_shape,
                                .pooled_shape = embeds.pooled_shape,
                                .prompt_embeds = {},
                                .pooled = {}}},
                              {.temporary_folder = folder_ / kUnfinished,
                               .mode = 0600,
                               .durable = false,
                               .metadata = {{kKeyEntry, text}}});
    writer.add(embeds.prompt_embeds, embeds.pooled);
    writer.finish();
    std::error_code gone;  // removed by another process already
    const std::uintmax_t written = fs::file_size(path, gone);
    if (!gone) unseen_bytes_ += static_cast<std::int64_t>(written);
    if (unseen_bytes_ >= size_limit_ / 64) {
      evict();
      unseen_bytes_ = 0;
    }
  } catch (const Error& error) {
    warn(error.what());
  } catch (const nlohmann::json::exception&) {
    // Not UTF-8: such a prompt has no key.
  }
}

void EmbedsCache::evict() {
  std::vector<CacheEntry> entries = list_entries(folder_);
  std::int64_t bytes = summarize(entries).bytes;
  // What will come before the next look is allowed for.
  const std::int64_t target = size_limit_ - size_limit_ / 64;
  if (bytes <= target) return;
  std::sort(entries.begin(), entries.end(),
            [](const CacheEntry& a, const CacheEntry& b) { return a.used < b.used; });
  for (const CacheEntry& entry : entries) {
    if (bytes <= target) break;
    // Whoever reads it keeps what was opened. If it is gone already, another process evicts too.
    if (::unlink(entry.path.c_str()) == 0 || errno == ENOENT) bytes -= entry.bytes;
  }
}

EmbedsCache::Summary EmbedsCache::summary() const {
  return folder_.empty() ? Summary() : summarize(list_entries(folder_));
}

EmbedsCache::Summary EmbedsCache::clear() {
  if (folder_.empty()) return {};
  UnfinishedFile::remove_abandoned(folder_ / kUnfinished, kUnfinishedEmbeds);
  const std::vector<CacheEntry> entries = list_entries(folder_);
  for (const CacheEntry& entry : entries) {
    if (::unlink(entry.path.c_str()) != 0 && errno != ENOENT) {
      throw io_error(entry.path, "cannot be removed", errno);
    }
  }
  forget_identities(folder_);
  return summarize(entries);
}

std::string EmbedsCache::take_warning() { return std::exchange(warning_, ""); }

void EmbedsCache::warn(const std::string& what) {
  if (std::exchange(warned_, true)) return;
  warning_ = fmt::format("the cache of prompt embeddings: {}", what);
}

}  // namespace steadyflux
