// Embeddings of prompts on the disk, for the next run: with them it need not open T5. Several
// processes may use one cache at once, none of them waits, and what goes wrong with it is never an
// error: at worst a prompt is encoded again.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "embeddings/prompt_embeds_file.h"

namespace steadyflux {

// All that decides what the embeddings of a prompt are.
struct EmbedsKey {
  std::string prompt;
  std::string encoder;  // kept_identity(): weights, configurations and tokenizers
  std::int64_t max_sequence_length = 0;
  std::string dtype;          // bf16, fp16, fp32
  std::string computed_by;    // whatever else decides the last bits (the device); may be ""
  std::string prompt_2 = {};  // what T5 reads; "": the prompt
};

// $STEADYFLUX_CACHE, else $XDG_CACHE_HOME/steadyflux, else ~/.cache/steadyflux; "" if none is set.
std::filesystem::path cache_folder();
// $STEADYFLUX_CACHE_SIZE, else 2 GiB. Throws Error{kUsage} if that is no size.
std::int64_t cache_size_limit();

class EmbedsCache {
 public:
  struct Summary {
    std::int64_t entries = 0;
    std::int64_t bytes = 0;
    std::optional<std::filesystem::file_time_type> oldest = {};  // by their last use
    std::optional<std::filesystem::file_time_type> newest = {};
  };

  // With a folder "" nothing is found and nothing kept. Makes no folder yet.
  EmbedsCache(std::filesystem::path folder, std::int64_t size_limit);

  // A hit makes the entry the most recently used one. What is damaged is removed, and no hit.
  std::optional<StoredEmbeds> find(const EmbedsKey& key);
  // Keeps the values of `embeds`; all else is taken from the key. Then removes the entries not used
  // for longest until all together keep to the limit. How much others have put there is looked up
  // once for every 64th part of the limit.
  void put(const EmbedsKey& key, const StoredEmbeds& embeds);

  Summary summary() const;
  // Removes all entries, and nothing else the folder may hold; returns what was removed. Throws
  // Error{kIo} if some cannot be.
  Summary clear();

  // The first thing that went wrong in find and put, given once; "" if nothing did.
  std::string take_warning();

  const std::filesystem::path& folder() const { return folder_; }
  std::int64_t size_limit() const { return size_limit_; }

 private:
  std::filesystem::path entry_path(const std::string& key_text) const;
  std::optional<StoredEmbeds> read_entry(const std::filesystem::path& path,
                                         const std::string& key_text);
  void evict();
  void warn(const std::string& what);

  std::filesystem::path folder_;
  std::int64_t size_limit_;
  std::int64_t unseen_bytes_;  // put here since all entries were last looked at
  std::string warning_;
  bool warned_ = false;
};

}  // namespace steadyflux
