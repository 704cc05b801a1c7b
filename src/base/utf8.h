// Text that came from outside: is it UTF-8, and how may it be shown? File contents end up in error
// messages, and a hostile tensor name must not reach the terminal with control characters in it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace steadyflux {

// The byte offset of the first sequence that is not well-formed UTF-8 (overlong forms, surrogates
// and code points above U+10FFFF are not), or std::string_view::npos.
std::size_t find_invalid_utf8(std::string_view text);

inline bool is_valid_utf8(std::string_view text) {
  return find_invalid_utf8(text) == std::string_view::npos;
}

// `text` fit for a one-line message: every byte outside printable ASCII as \xNN, the middle of what
// is longer than `max_length` characters replaced by "...".
std::string printable(std::string_view text, std::size_t max_length = 80);

}  // namespace steadyflux
