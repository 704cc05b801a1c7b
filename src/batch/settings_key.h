// Names for settings: two requests with the same key make the same picture. The key goes into the
// journal of a batch, so it must stay the same from version to version, on every machine.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace steadyflux {

// 32 hexadecimal digits: XXH3 with 128 bits over the JSON text with sorted keys and no spaces. An
// integer and the same number as floating point (1 and 1.0) are two settings. Throws
// Error{kBadInput} if a string is no UTF-8.
std::string settings_key(const nlohmann::json& settings);

// XXH3 with 64 bits.
std::uint64_t text_hash(std::string_view text);

}  // namespace steadyflux
