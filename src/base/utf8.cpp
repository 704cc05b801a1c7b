#include "base/utf8.h"

#include <fmt/format.h>

#include <algorithm>

namespace steadyflux {
namespace {

// Length of the sequence that `lead` begins, 0 if no sequence begins so.
std::size_t sequence_length(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return 2;
  if (lead >= 0xE0 && lead <= 0xEF) return 3;
  if (lead >= 0xF0 && lead <= 0xF4) return 4;
  return 0;
}

// The second byte carries what excludes overlong forms, surrogates and > U+10FFFF.
bool valid_second(unsigned char lead, unsigned char second) {
  unsigned char low = 0x80;
  unsigned char high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  return second >= low && second <= high;
}

}  // namespace

std::size_t find_invalid_utf8(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  std::size_t i = 0;
  while (i < text.size()) {
    const std::size_t length = sequence_length(byte(i));
    if (length == 0 || length > text.size() - i) return i;
    if (length > 1 && !valid_second(byte(i), byte(i + 1))) return i;
    for (std::size_t k = 2; k < length; ++k) {
      if ((byte(i + k) & 0xC0) != 0x80) return i;
    }
    i += length;
  }
  return std::string_view::npos;
}

std::string printable(std::string_view text, std::size_t max_length) {
  const auto escape = [](std::string_view part) {
    std::string shown;
    for (const char c : part) {
      const auto byte = static_cast<unsigned char>(c);
      if (byte >= 0x20 && byte < 0x7F) {
        shown += c;
      } else {
        shown += fmt::format("\\x{:02X}", byte);
      }
    }
    return shown;
  };
  // Escapes only lengthen, so what is cut here need not be escaped at all.
  if (text.size() > max_length) {
    const std::size_t half = std::max<std::size_t>(max_length / 2, 2) - 2;
    return escape(text.substr(0, half)) + "..." + escape(text.substr(text.size() - half));
  }
  return escape(text);
}

}  // namespace steadyflux
