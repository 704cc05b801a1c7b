#include "base/scaled_file.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <system_error>

#include "base/utf8.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

// How errors about one text begin and end.
struct Usage {
  const std::string& text;
  const char* what;
  const char* example;

  Error operator()(const std::string& problem) const {
    return {ErrorKind::kUsage,
            fmt::format("{} '{}': {}; expected FILE or FILE:SCALE, for example {}", what,
                        printable(text, 200), problem, example)};
  }
};

}  // namespace

ScaledFile parse_scaled_file(const std::string& text, const char* what, const char* example) {
  const Usage usage{text, what, example};
  if (text.empty()) throw usage("no file");
  if (text.find('\0') != std::string::npos) throw usage("a zero byte in the name");
  std::error_code ignored;
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos || std::filesystem::exists(text, ignored)) return {text, 1.0};
  const std::string number = text.substr(colon + 1);
  // A slash after the colon: it belongs to the name of a folder.
  if (number.find('/') != std::string::npos) return {text, 1.0};
  if (colon == 0) throw usage("no file in front of the ':'");
  // Plain decimal numbers; strtod would also take spaces, hexadecimal, "inf" and "nan".
  if (number.empty() || number.find_first_not_of("0123456789.+-eE") != std::string::npos) {
    throw usage(fmt::format("there is no such file, and '{}' after the ':' is no number",
                            printable(number)));
  }
  char* end = nullptr;
  const double scale = std::strtod(number.c_str(), &end);
  if (end != number.c_str() + number.size()) {
    throw usage(fmt::format("there is no such file, and '{}' after the ':' is no number",
                            printable(number)));
  }
  if (!std::isfinite(scale)) throw usage(fmt::format("the scale {} is too large", number));
  return {text.substr(0, colon), scale};
}

}  // namespace steadyflux
