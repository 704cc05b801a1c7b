// Converting a file in memory, and comparing what came out with what went in.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "conversion/convert.h"
#include "conversion/tiny_models.h"
#include "temp_folder.h"
#include "weights/component_weights.h"

namespace steadyflux::testing {

struct Converted {
  std::string bytes;
  ConversionReport report;
};

inline Converted convert_file(const std::filesystem::path& path, DType type,
                              std::optional<Component> component = {}, int threads = 1) {
  const auto source = open_conversion_source(path, component);
  const auto plan = plan_conversion(source, type);
  Converted result;
  const auto text = [](std::span<const std::byte> bytes) {
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  result.report =
      convert(plan,
              {.append = [&](std::span<const std::byte> bytes) { result.bytes += text(bytes); },
               .rewrite_start =
                   [&](std::span<const std::byte> bytes) {
                     ASSERT_LE(bytes.size(), result.bytes.size());
                     result.bytes.replace(0, bytes.size(), text(bytes));
                   },
               .restart = [&] { result.bytes.clear(); }},
              threads, [](std::int64_t, std::int64_t) {});
  EXPECT_EQ(result.bytes.size(), result.report.file_bytes);
  if (result.report.warnings == plan.warnings) {
    EXPECT_EQ(result.bytes.size(), converted_file_bytes(plan));
  }
  return result;
}

inline std::vector<float> values_of(const StoredTensor& tensor) {
  std::vector<float> values;
  for (const StoredRows& rows : tensor.rows) {
    const auto& shape = rows.values.shape;
    const auto count =
        std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
    std::vector<float> part(static_cast<std::size_t>(count));
    read_values(rows, 0, count, part.data());
    values.insert(values.end(), part.begin(), part.end());
  }
  return values;
}

// Every tensor of `file`, read back as the models do, against what it was made from; the errors
// over each type are those of the report.
inline void expect_values(const std::filesystem::path& file, Component component,
                          const TinyTensors& expected, const ConversionReport& report) {
  const auto weights = ComponentWeights::open(file, component);
  EXPECT_EQ(weights.tensors().size(), expected.size());
  std::map<DType, double> errors, powers;
  for (const auto& [name, tensor] : expected) {
    const StoredTensor* stored = weights.find(name);
    ASSERT_NE(stored, nullptr) << name;
    EXPECT_EQ(stored->shape, tensor.shape) << name;
    const auto found = values_of(*stored);
    ASSERT_EQ(found.size(), tensor.values.size()) << name;
    for (std::size_t i = 0; i < found.size(); ++i) {
      const double error = static_cast<double>(found[i]) - tensor.values[i];
      errors[stored->dtype()] += error * error;
      powers[stored->dtype()] += static_cast<double>(tensor.values[i]) * tensor.values[i];
    }
  }
  for (const TypeReport& type : report.types) {
    // Summed in another order.
    EXPECT_NEAR(type.relative_rms_error, std::sqrt(errors[type.dtype] / powers[type.dtype]), 1e-9)
        << to_string(type.dtype);
  }
}

inline double error_of(const ConversionReport& report, DType dtype) {
  for (const TypeReport& type : report.types) {
    if (type.dtype == dtype) return type.relative_rms_error;
  }
  ADD_FAILURE() << "nothing is " << to_string(dtype);
  return -1;
}

class ConversionTest : public ::testing::Test {
 protected:
  std::filesystem::path put(const std::string& name, const std::string& text) const {
    folder_.write(name, text);
    return folder_ / name;
  }
  TempFolder folder_;
};

}  // namespace steadyflux::testing
