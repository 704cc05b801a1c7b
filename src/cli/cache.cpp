// steadyflux cache: what the cache of prompt embeddings holds, and emptying it.
#include <fmt/format.h>

#include <chrono>
#include <cstdint>
#include <ctime>
#include <filesystem>
#include <optional>
#include <string>

#include "base/bytes.h"
#include "base/utf8.h"
#include "cli/commands.h"
#include "cli/json_output.h"
#include "cli/text_output.h"
#include "embeddings/embeds_cache.h"
#include "steadyflux/error.h"

namespace steadyflux::cli {
namespace {

namespace fs = std::filesystem;

// "2026-01-31T23:59:59Z"; null for no time.
Json utc(const std::optional<fs::file_time_type>& time) {
  if (!time) return nullptr;
  const auto age = fs::file_time_type::clock::now() - *time;
  const auto seconds = std::chrono::system_clock::to_time_t(
      std::chrono::system_clock::now() -
      std::chrono::duration_cast<std::chrono::system_clock::duration>(age));
  std::tm parts{};
  if (gmtime_r(&seconds, &parts) == nullptr) return nullptr;
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", parts.tm_year + 1900, parts.tm_mon + 1,
                     parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec);
}

std::string as_text(const Json& facts) {
  std::string text =
      fmt::format("folder   {}\n", printable(facts["folder"].get<std::string>(), 200));
  text += fmt::format("prompts  {}, {}; limit {}\n", facts["entries"].get<std::int64_t>(),
                      format_bytes(facts["bytes"].get<std::int64_t>()),
                      format_bytes(facts["limit"].get<std::int64_t>()));
  if (!facts["oldest"].is_null()) {
    text += fmt::format("used     {} to {}\n", facts["oldest"].get<std::string>(),
                        facts["newest"].get<std::string>());
  }
  return text;
}

}  // namespace

void run_cache(const CommandLine& line) {
  if (line.positional && *line.positional != "clear") {
    throw Error(ErrorKind::kUsage, fmt::format("steadyflux cache {}: expected nothing or 'clear'",
                                               printable(*line.positional)));
  }
  EmbedsCache cache(cache_folder(), cache_size_limit());
  if (cache.folder().empty()) {
    throw Error(ErrorKind::kUsage,
                "there is no cache: none of STEADYFLUX_CACHE, XDG_CACHE_HOME and HOME is set");
  }
  if (line.positional) {
    const EmbedsCache::Summary removed = cache.clear();
    if (line.typed.json) {
      print_json({{"folder", cache.folder().string()},
                  {"removed_entries", removed.entries},
                  {"removed_bytes", removed.bytes}});
    } else {
      print_text(fmt::format("removed {} prompts, {}, from {}\n", removed.entries,
                             format_bytes(removed.bytes), printable(cache.folder().string(), 200)));
    }
    return;
  }
  const EmbedsCache::Summary summary = cache.summary();
  const Json facts = {{"folder", cache.folder().string()},
                      {"entries", summary.entries},
                      {"bytes", summary.bytes},
                      {"limit", cache.size_limit()},
                      {"oldest", utc(summary.oldest)},
                      {"newest", utc(summary.newest)}};
  if (line.typed.json) {
    print_json(facts);
  } else {
    print_text(as_text(facts));
  }
}

}  // namespace steadyflux::cli
