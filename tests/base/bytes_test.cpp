#include "base/bytes.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "steadyflux/error.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kMiB = 1024 * 1024;

TEST(ParseBytes, TakesBothFamiliesOfUnits) {
  EXPECT_EQ(parse_bytes("0"), 0);
  EXPECT_EQ(parse_bytes("1073741824"), 1073741824);
  EXPECT_EQ(parse_bytes("17B"), 17);
  EXPECT_EQ(parse_bytes("6GiB"), 6 * 1024 * kMiB);
  EXPECT_EQ(parse_bytes("6G"), 6 * 1024 * kMiB);
  EXPECT_EQ(parse_bytes("6GB"), 6'000'000'000);
  EXPECT_EQ(parse_bytes("500MB"), 500'000'000);
  EXPECT_EQ(parse_bytes("500M"), 500 * kMiB);
  EXPECT_EQ(parse_bytes("3KB"), 3000);
  EXPECT_EQ(parse_bytes("3KiB"), 3072);
  EXPECT_EQ(parse_bytes("2TB"), 2'000'000'000'000);
  EXPECT_EQ(parse_bytes("2TiB"), 2 * 1024 * 1024 * kMiB);
}

TEST(ParseBytes, TakesFractionsOneBlankAndAnyCase) {
  EXPECT_EQ(parse_bytes("1.5GiB"), 1536 * kMiB);
  EXPECT_EQ(parse_bytes("0.5 kib"), 512);
  EXPECT_EQ(parse_bytes("2 gb"), 2'000'000'000);
  EXPECT_EQ(parse_bytes("1.7"), 2);  // the nearest whole byte
}

TEST(ParseBytes, RefusesEverythingElse) {
  for (const char* text : {"", " ", "GiB", "-1", "+1", "1.", ".5", "1,5GiB", "0x10", "1e3", "inf",
                           "nan", "6GiBs", "6 G B", "6  GiB", " 6GiB", "6GiB ", "1.5.5", "6PB"}) {
    try {
      parse_bytes(text);
      ADD_FAILURE() << "'" << text << "' was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      EXPECT_NE(std::string(error.what()).find("'" + std::string(text) + "'"), std::string::npos)
          << error.what();
    }
  }
}

TEST(ParseBytes, RefusesWhatDoesNotFit64Bits) {
  EXPECT_EQ(parse_bytes("8000000TB"), 8'000'000'000'000'000'000);
  EXPECT_THROW(parse_bytes("9300000TB"), Error);
  EXPECT_THROW(parse_bytes(std::string(400, '9')), Error);  // infinite as a double
}

TEST(ParseBytes, ALongFractionStaysAFraction) {
  EXPECT_EQ(parse_bytes("1.50000000000GiB"), 1536 * kMiB);
}

TEST(ParseBytes, ControlCharactersDoNotReachTheTerminal) {
  try {
    parse_bytes("\x1b[2J");
    ADD_FAILURE() << "it was taken";
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find('\x1b'), std::string::npos);
  }
}

TEST(FormatBytes, PicksTheUnit) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1024), "1.00 KiB");
  EXPECT_EQ(format_bytes(1536 * kMiB), "1.50 GiB");
  EXPECT_EQ(format_bytes(-5 * kMiB), "-5.00 MiB");
  EXPECT_EQ(format_bytes(kMiB * 1024 * 1024 * 3000), "3000.00 TiB");  // there is no larger unit
}

TEST(FormatBytes, NeverPrints1024OfAUnit) {
  EXPECT_EQ(format_bytes(kMiB - 1), "1.00 MiB");
  EXPECT_EQ(format_bytes(1024 * kMiB - 1), "1.00 GiB");
  EXPECT_EQ(format_bytes(kMiB - 1024), "1023.00 KiB");
}

TEST(FormatBytes, TakesTheExtremes) {
  EXPECT_EQ(format_bytes(INT64_MAX), "8388608.00 TiB");
  EXPECT_EQ(format_bytes(INT64_MIN), "-8388608.00 TiB");
}

}  // namespace
}  // namespace steadyflux
