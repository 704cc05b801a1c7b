#include "tokenizer/unicode.h"

#include <fmt/format.h>
#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <algorithm>

#include "base/utf8.h"
#include "steadyflux/error.h"

namespace steadyflux {

void check_utf8(std::string_view text) {
  constexpr std::size_t kMaxBytes = std::size_t{1} << 28;  // ICU counts in int32
  if (text.size() > kMaxBytes) {
    throw Error(ErrorKind::kUsage, fmt::format("the prompt has {} bytes; shorten it", text.size()));
  }
  if (const std::size_t at = find_invalid_utf8(text); at != std::string_view::npos) {
    throw Error(ErrorKind::kUsage,
                fmt::format("the prompt is not valid UTF-8: byte 0x{:02x} at offset {}; convert it "
                            "to UTF-8",
                            static_cast<unsigned char>(text[at]), at));
  }
}

char32_t next_code_point(std::string_view text, std::size_t& pos) {
  UChar32 c = 0;
  U8_NEXT_UNSAFE(text.data(), pos, c);
  return static_cast<char32_t>(c);
}

void append_utf8(std::string& text, char32_t code_point) {
  char buffer[U8_MAX_LENGTH];
  std::size_t length = 0;
  U8_APPEND_UNSAFE(buffer, length, static_cast<UChar32>(code_point));
  text.append(buffer, length);
}

bool is_white_space(char32_t c) { return u_isUWhiteSpace(static_cast<UChar32>(c)) != 0; }

bool is_letter(char32_t c) { return (U_GET_GC_MASK(static_cast<UChar32>(c)) & U_GC_L_MASK) != 0; }

bool is_number(char32_t c) { return (U_GET_GC_MASK(static_cast<UChar32>(c)) & U_GC_N_MASK) != 0; }

std::string nfc(std::string_view text) {
  const bool ascii = std::all_of(text.begin(), text.end(),
                                 [](char c) { return static_cast<unsigned char>(c) < 0x80; });
  if (ascii) {
    return std::string(text);
  }
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* normalizer = icu::Normalizer2::getNFCInstance(status);
  std::string result;
  if (U_SUCCESS(status)) {
    icu::StringByteSink<std::string> sink(&result);
    normalizer->normalizeUTF8(0,
                              icu::StringPiece(text.data(), static_cast<std::int32_t>(text.size())),
                              sink, nullptr, status);
  }
  if (U_FAILURE(status)) {
    throw Error(ErrorKind::kInternal, fmt::format("ICU cannot normalise: {}", u_errorName(status)));
  }
  return result;
}

std::string lower_case(std::string_view text) {
  constexpr char32_t kCapitalIWithDot = 0x130;
  std::string result;
  result.reserve(text.size());
  for (std::size_t pos = 0; pos < text.size();) {
    const char32_t c = next_code_point(text, pos);
    append_utf8(result, static_cast<char32_t>(u_tolower(static_cast<UChar32>(c))));
    if (c == kCapitalIWithDot) {
      append_utf8(result, 0x307);  // combining dot above
    }
  }
  return result;
}

}  // namespace steadyflux
