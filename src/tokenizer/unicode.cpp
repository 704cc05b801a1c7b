#include "tokenizer/unicode.h"

#include <fmt/format.h>
#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <array>

#include "base/utf8.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

// Letters and numbers of Unicode 15.1 and 16.0, which the reference knows and an older ICU does
// not: first and last code point.
using Range = std::array<char32_t, 2>;
constexpr std::array<Range, 22> kNewLetters = {{
    {0x1c89, 0x1c8a},   {0xa7cb, 0xa7cd},   {0xa7da, 0xa7dc},   {0x105c0, 0x105f3},
    {0x10d4a, 0x10d65}, {0x10d6f, 0x10d85}, {0x10ec2, 0x10ec4}, {0x11380, 0x11389},
    {0x1138b, 0x1138b}, {0x1138e, 0x1138e}, {0x11390, 0x113b5}, {0x113b7, 0x113b7},
    {0x113d1, 0x113d1}, {0x113d3, 0x113d3}, {0x11bc0, 0x11be0}, {0x13460, 0x143fa},
    {0x16100, 0x1611d}, {0x16d40, 0x16d6c}, {0x18cff, 0x18cff}, {0x1e5d0, 0x1e5ed},
    {0x1e5f0, 0x1e5f0}, {0x2ebf0, 0x2ee5d},
}};
constexpr std::array<Range, 7> kNewNumbers = {{
    {0x10d40, 0x10d49},
    {0x116d0, 0x116e3},
    {0x11bf0, 0x11bf9},
    {0x16130, 0x16139},
    {0x16d70, 0x16d79},
    {0x1ccf0, 0x1ccf9},
    {0x1e5f1, 0x1e5fa},
}};

// Capital letters up to Unicode 17.0 that an older ICU does not lower: first, last, lower of first.
constexpr std::array<std::array<char32_t, 3>, 10> kNewCapitals = {{
    {0x1c89, 0x1c89, 0x1c8a},
    {0xa7cb, 0xa7cb, 0x264},
    {0xa7cc, 0xa7cc, 0xa7cd},
    {0xa7ce, 0xa7ce, 0xa7cf},
    {0xa7d2, 0xa7d2, 0xa7d3},
    {0xa7d4, 0xa7d4, 0xa7d5},
    {0xa7da, 0xa7da, 0xa7db},
    {0xa7dc, 0xa7dc, 0x19b},
    {0x10d50, 0x10d65, 0x10d70},
    {0x16ea0, 0x16eb8, 0x16ebb},
}};

template <std::size_t N>
bool in_ranges(const std::array<Range, N>& ranges, char32_t c) {
  return std::any_of(ranges.begin(), ranges.end(),
                     [c](const Range& range) { return range[0] <= c && c <= range[1]; });
}

char32_t lower(char32_t c) {
  for (const auto& [first, last, target] : kNewCapitals) {
    if (first <= c && c <= last) {
      return target + (c - first);
    }
  }
  return static_cast<char32_t>(u_tolower(static_cast<UChar32>(c)));
}

// The reference normalises by the tables of Unicode 9.0: to it, later code points neither decompose
// nor move.
bool is_newer_than_nfc(char32_t c) {
  constexpr char32_t kFirstAfterUnicode9 = 0x560;
  if (c < kFirstAfterUnicode9) {
    return false;
  }
  UVersionInfo age;
  u_charAge(static_cast<UChar32>(c), age);
  return age[0] > 9;
}

void append_nfc(std::string_view text, std::string& result) {
  const bool ascii = std::all_of(text.begin(), text.end(),
                                 [](char c) { return static_cast<unsigned char>(c) < 0x80; });
  if (ascii) {
    result += text;
    return;
  }
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* normalizer = icu::Normalizer2::getNFCInstance(status);
  if (U_SUCCESS(status)) {
    icu::StringByteSink<std::string> sink(&result);
    normalizer->normalizeUTF8(0,
                              icu::StringPiece(text.data(), static_cast<std::int32_t>(text.size())),
                              sink, nullptr, status);
  }
  if (U_FAILURE(status)) {
    throw Error(ErrorKind::kInternal, fmt::format("ICU cannot normalise: {}", u_errorName(status)));
  }
}

}  // namespace

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

bool is_letter(char32_t c) {
  return (U_GET_GC_MASK(static_cast<UChar32>(c)) & U_GC_L_MASK) != 0 || in_ranges(kNewLetters, c);
}

bool is_number(char32_t c) {
  return (U_GET_GC_MASK(static_cast<UChar32>(c)) & U_GC_N_MASK) != 0 || in_ranges(kNewNumbers, c);
}

std::string nfc(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  std::size_t known = 0;  // where the run of code points begins that the reference knows
  for (std::size_t pos = 0; pos < text.size();) {
    const std::size_t begin = pos;
    if (is_newer_than_nfc(next_code_point(text, pos))) {
      append_nfc(text.substr(known, begin - known), result);
      result += text.substr(begin, pos - begin);
      known = pos;
    }
  }
  append_nfc(text.substr(known), result);
  return result;
}

std::string lower_case(std::string_view text) {
  constexpr char32_t kCapitalIWithDot = 0x130;
  std::string result;
  result.reserve(text.size());
  for (std::size_t pos = 0; pos < text.size();) {
    const char32_t c = next_code_point(text, pos);
    append_utf8(result, lower(c));
    if (c == kCapitalIWithDot) {
      append_utf8(result, 0x307);  // combining dot above
    }
  }
  return result;
}

}  // namespace steadyflux
