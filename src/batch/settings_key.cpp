#include "batch/settings_key.h"

// The functions are compiled in; the library is not needed at run time.
#define XXH_INLINE_ALL
#include <fmt/format.h>
#include <xxhash.h>

#include "steadyflux/error.h"

namespace steadyflux {

std::string settings_key(const nlohmann::json& settings) {
  std::string text;
  try {
    text = settings.dump();
  } catch (const nlohmann::json::type_error&) {
    throw Error(ErrorKind::kBadInput, "a setting is not valid UTF-8");
  }
  const XXH128_hash_t hash = XXH3_128bits(text.data(), text.size());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

std::uint64_t text_hash(std::string_view text) { return XXH3_64bits(text.data(), text.size()); }

}  // namespace steadyflux
