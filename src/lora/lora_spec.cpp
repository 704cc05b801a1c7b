#include "lora/lora_spec.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <system_error>

#include "base/utf8.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

Error usage(const std::string& text, const std::string& what) {
  return Error(ErrorKind::kUsage, fmt::format("LoRA '{}': {}; expected FILE or FILE:SCALE, for "
                                              "example style.safetensors:0.8",
                                              printable(text, 200), what));
}

}  // namespace

LoraSpec parse_lora_spec(const std::string& text) {
  if (text.empty()) throw usage(text, "no file");
  if (text.find('\0') != std::string::npos) throw usage(text, "a zero byte in the name");
  std::error_code ignored;
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos || std::filesystem::exists(text, ignored)) return {text, 1.0};
  const std::string number = text.substr(colon + 1);
  // A slash after the colon: it belongs to the name of a folder.
  if (number.find('/') != std::string::npos) return {text, 1.0};
  if (colon == 0) throw usage(text, "no file in front of the ':'");
  // Plain decimal numbers; strtod would also take spaces, hexadecimal, "inf" and "nan".
  if (number.empty() || number.find_first_not_of("0123456789.+-eE") != std::string::npos) {
    throw usage(text, fmt::format("there is no such file, and '{}' after the ':' is no number",
                                  printable(number)));
  }
  char* end = nullptr;
  const double scale = std::strtod(number.c_str(), &end);
  if (end != number.c_str() + number.size()) {
    throw usage(text, fmt::format("there is no such file, and '{}' after the ':' is no number",
                                  printable(number)));
  }
  if (!std::isfinite(scale)) throw usage(text, fmt::format("the scale {} is too large", number));
  return {text.substr(0, colon), scale};
}

}  // namespace steadyflux
