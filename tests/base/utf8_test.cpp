#include "base/utf8.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <string_view>

namespace steadyflux {
namespace {

using namespace std::string_view_literals;

// The UTF-8 form of a number, whether or not it is a code point that may have one.
std::string encode(unsigned code) {
  const auto tail = [&](int shift) { return static_cast<char>(0x80 | (code >> shift & 0x3f)); };
  if (code < 0x80) return {static_cast<char>(code)};
  if (code < 0x800) return {static_cast<char>(0xc0 | code >> 6), tail(0)};
  if (code < 0x10000) return {static_cast<char>(0xe0 | code >> 12), tail(6), tail(0)};
  return {static_cast<char>(0xf0 | code >> 18), tail(12), tail(6), tail(0)};
}

TEST(Utf8, EveryNumberOfFourBytesIsTakenIfItIsACodePoint) {
  for (unsigned code = 0; code < 0x200000; ++code) {
    const bool is_code_point = code <= 0x10ffff && (code < 0xd800 || code > 0xdfff);
    ASSERT_EQ(is_valid_utf8(encode(code)), is_code_point) << code;
  }
}

TEST(Utf8, OverlongFormsAreRefused) {
  for (const std::string_view text :
       {"\xc0\x80"sv, "\xc1\xbf"sv, "\xe0\x80\x80"sv, "\xe0\x9f\xbf"sv, "\xf0\x80\x80\x80"sv,
        "\xf0\x8f\xbf\xbf"sv}) {
    EXPECT_EQ(find_invalid_utf8(text), 0u) << printable(text);
  }
}

TEST(Utf8, BytesThatBeginNothingAreRefused) {
  for (unsigned lead = 0x80; lead < 0x100; ++lead) {
    if (lead >= 0xc2 && lead <= 0xf4) continue;
    const std::string text = {'a', static_cast<char>(lead), '\xbf', '\xbf', '\xbf'};
    EXPECT_EQ(find_invalid_utf8(text), 1u) << lead;
  }
}

TEST(Utf8, EveryCutThroughASequenceIsFound) {
  for (const unsigned code : {0xe9u, 0x20acu, 0x1f600u}) {
    const std::string whole = encode(code);
    for (std::size_t length = 1; length < whole.size(); ++length) {
      const std::string cut = whole.substr(0, length);
      EXPECT_EQ(find_invalid_utf8("ab" + cut), 2u);
      EXPECT_EQ(find_invalid_utf8("ab" + cut + "c"), 2u);
      EXPECT_EQ(find_invalid_utf8("ab" + cut + whole), 2u);
    }
  }
}

TEST(Utf8, TheFirstFaultCounts) {
  EXPECT_EQ(find_invalid_utf8("gr\xc3\xbc\xc3\x9f \xff \xfe"), 7u);
  EXPECT_EQ(find_invalid_utf8(""), std::string_view::npos);
  EXPECT_EQ(find_invalid_utf8("a\0b"sv), std::string_view::npos);
}

TEST(Printable, EscapesAllBytesOutsidePrintableAscii) {
  EXPECT_EQ(printable("a b~"), "a b~");
  EXPECT_EQ(printable("\x1b[31m\n\0\x7f"sv), "\\x1B[31m\\x0A\\x00\\x7F");
  EXPECT_EQ(printable("\xc3\xbc"), "\\xC3\\xBC");
}

TEST(Printable, TakesOutTheMiddle) {
  EXPECT_EQ(printable(std::string(80, 'x')), std::string(80, 'x'));
  const std::string shown = printable("begin" + std::string(1000, '-') + "end");
  EXPECT_LE(shown.size(), 80u);
  EXPECT_TRUE(shown.starts_with("begin-"));
  EXPECT_TRUE(shown.ends_with("-end"));
  EXPECT_NE(shown.find("..."), std::string::npos);
}

TEST(Printable, TakesAnyLength) {
  const std::string text(50, 'x');
  for (std::size_t max_length = 0; max_length <= 60; ++max_length) {
    EXPECT_LE(printable(text, max_length).size(), std::max<std::size_t>(max_length, 3));
  }
}

}  // namespace
}  // namespace steadyflux
