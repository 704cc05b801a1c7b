// Numbers as people type them.
#pragma once

#include <charconv>
#include <optional>
#include <string>

namespace steadyflux::cli {

template <typename Number>
std::optional<Number> parse_number(const std::string& text) {
  Number value{};
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, value);
  if (parsed.ec != std::errc() || parsed.ptr != end) return std::nullopt;
  return value;
}

}  // namespace steadyflux::cli
