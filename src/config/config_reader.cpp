#include "config/config_reader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "base/json.h"
#include "base/utf8.h"

namespace steadyflux {
namespace {

using nlohmann::json;

// The value if it is an integer that fits: 3, but not 3.0, "3" or true.
std::optional<std::int64_t> as_integer(const json& value, std::int64_t min, std::int64_t max) {
  if (value.is_number_unsigned() &&
      value.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX)) {
    return std::nullopt;
  }
  if (!value.is_number_integer()) return std::nullopt;
  const auto number = value.get<std::int64_t>();
  if (number < min || number > max) return std::nullopt;
  return number;
}

}  // namespace

ConfigReader::ConfigReader(const std::filesystem::path& file)
    : file_(file), root_(read_json_object(file)) {}

const json* ConfigReader::find(const std::string& key) const {
  const auto it = root_.find(key);
  return it == root_.end() ? nullptr : &*it;
}

bool ConfigReader::has(const std::string& key) const {
  const json* value = find(key);
  return value != nullptr && !value->is_null();
}

Error ConfigReader::fail(const std::string& key, const std::string& expected) const {
  const json* value = find(key);
  const std::string found = value == nullptr ? "missing" : printable(value->dump());
  return Error(ErrorKind::kBadInput,
               fmt::format("{}: {} is {}, expected {}", file_.string(), key, found, expected));
}

std::int64_t ConfigReader::integer(const std::string& key, std::int64_t fallback, std::int64_t min,
                                   std::int64_t max) const {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  const auto number = as_integer(*value, min, max);
  if (!number) throw fail(key, fmt::format("an integer from {} to {}", min, max));
  return *number;
}

double ConfigReader::number(const std::string& key, double fallback, double min, double max) const {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  const std::string expected = fmt::format("a number from {} to {}", min, max);
  if (!value->is_number()) throw fail(key, expected);
  const auto number = value->get<double>();
  if (!(number >= min && number <= max)) throw fail(key, expected);
  return number;
}

bool ConfigReader::boolean(const std::string& key, bool fallback) const {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) throw fail(key, "true or false");
  return value->get<bool>();
}

std::string ConfigReader::text(const std::string& key, const std::string& fallback) const {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_string()) throw fail(key, "a string");
  return value->get<std::string>();
}

std::string ConfigReader::choice(const std::string& key, const std::string& fallback,
                                 const std::vector<std::string>& allowed) const {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_string() ||
      std::find(allowed.begin(), allowed.end(), value->get<std::string>()) == allowed.end()) {
    throw fail(key, fmt::format("\"{}\"", fmt::join(allowed, "\" or \"")));
  }
  return value->get<std::string>();
}

std::vector<std::int64_t> ConfigReader::integers(const std::string& key,
                                                 std::vector<std::int64_t> fallback,
                                                 std::size_t max_count, std::int64_t min,
                                                 std::int64_t max) const {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  const std::string expected =
      fmt::format("a list of 1 to {} integers from {} to {}", max_count, min, max);
  if (!value->is_array() || value->empty() || value->size() > max_count) throw fail(key, expected);
  std::vector<std::int64_t> numbers;
  for (const json& element : *value) {
    const auto number = as_integer(element, min, max);
    if (!number) throw fail(key, expected);
    numbers.push_back(*number);
  }
  return numbers;
}

void ConfigReader::refuse(const std::string& key) const {
  const json* value = find(key);
  if (value == nullptr || value->is_null() || value->empty() || *value == false) return;
  throw fail(key, "it to be absent or off: steadyflux does not implement it");
}

void ConfigReader::expect_class(const std::string& expected) const {
  const json* value = find("_class_name");
  if (value == nullptr || *value != expected) throw fail("_class_name", "\"" + expected + "\"");
}

}  // namespace steadyflux
