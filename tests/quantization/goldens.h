// Reads tests/quantization/goldens.json, which scripts/make_quantization_goldens.py wrote.
#pragma once

#include <cstddef>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/json.h"
#include "quantization/dtype.h"

namespace steadyflux::testing {

inline const nlohmann::json& goldens() {
  static const nlohmann::json all = read_json_object(std::filesystem::path(STEADYFLUX_SOURCE_DIR) /
                                                     "tests" / "quantization" / "goldens.json");
  return all;
}

inline DType dtype_named(const std::string& name) {
  for (int i = 0; i <= static_cast<int>(DType::kIQ4_XS); ++i) {
    if (to_string(static_cast<DType>(i)) == name) return static_cast<DType>(i);
  }
  throw std::invalid_argument(name);
}

inline std::vector<std::byte> from_hex(const std::string& hex) {
  std::vector<std::byte> bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

inline std::vector<float> floats(const std::string& hex) {
  const auto bytes = from_hex(hex);
  std::vector<float> values(bytes.size() / sizeof(float));
  if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

}  // namespace steadyflux::testing
