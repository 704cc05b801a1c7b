#include "base/bytes.h"

#include <fmt/format.h>

#include <cctype>
#include <cmath>
#include <limits>
#include <optional>

#include "base/utf8.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

struct Unit {
  const char* name;  // lower case
  double factor;
};

constexpr double kKibi = 1024.0;
constexpr Unit kUnits[] = {
    {"", 1},
    {"b", 1},
    {"k", kKibi},
    {"kib", kKibi},
    {"kb", 1e3},
    {"m", kKibi* kKibi},
    {"mib", kKibi* kKibi},
    {"mb", 1e6},
    {"g", kKibi* kKibi* kKibi},
    {"gib", kKibi* kKibi* kKibi},
    {"gb", 1e9},
    {"t", kKibi* kKibi* kKibi* kKibi},
    {"tib", kKibi* kKibi* kKibi* kKibi},
    {"tb", 1e12},
};

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// "1.5GiB" -> 1.5 and the rest; nullopt unless it begins with digits[.digits]. Not strtod, which
// takes "inf", "0x1p3" and the locale's decimal comma.
std::optional<double> read_number(const std::string& text, std::size_t& pos) {
  double value = 0;
  const std::size_t start = pos;
  for (; pos < text.size() && is_digit(text[pos]); ++pos) value = value * 10 + (text[pos] - '0');
  if (pos == start) return std::nullopt;
  if (pos < text.size() && text[pos] == '.') {
    const std::size_t point = pos++;
    double numerator = 0;
    double denominator = 1;
    for (; pos < text.size() && is_digit(text[pos]) && denominator < 1e15; ++pos) {
      numerator = numerator * 10 + (text[pos] - '0');
      denominator *= 10;
    }
    if (pos == point + 1) return std::nullopt;
    value += numerator / denominator;
  }
  return value;
}

}  // namespace

std::int64_t parse_bytes(const std::string& text) {
  std::size_t pos = 0;
  const std::optional<double> number = read_number(text, pos);
  if (pos < text.size() && text[pos] == ' ') ++pos;
  std::string unit = text.substr(pos);
  for (char& c : unit) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (number) {
    for (const Unit& known : kUnits) {
      const double bytes = *number * known.factor;
      if (unit == known.name && bytes < 9.2e18) return std::llround(bytes);
    }
  }
  throw Error(ErrorKind::kUsage,
              fmt::format("'{}' is not a size in bytes; write for example 6GiB, 1.5GiB, 500MB or "
                          "1073741824",
                          printable(text)));
}

std::string format_bytes(std::int64_t bytes) {
  const double value = static_cast<double>(bytes);
  const double magnitude = std::abs(value);
  if (magnitude < kKibi) return fmt::format("{} B", bytes);
  const char* const names[] = {"KiB", "MiB", "GiB", "TiB"};
  double factor = kKibi;
  std::size_t unit = 0;
  // The next unit as soon as rounding would print 1024.00.
  while (unit < 3 && magnitude / factor >= 1023.995) {
    factor *= kKibi;
    ++unit;
  }
  return fmt::format("{:.2f} {}", value / factor, names[unit]);
}

}  // namespace steadyflux
