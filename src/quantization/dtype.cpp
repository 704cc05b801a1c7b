#include "quantization/dtype.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <functional>
#include <numeric>

namespace steadyflux {
namespace {

struct Description {
  const char* name;
  std::size_t item_size;
  std::int64_t item_values;
};

// In the order of the enumerators.
constexpr std::array<Description, 24> kDescriptions = {{
    {"BOOL", 1, 1},     {"U8", 1, 1},       {"I8", 1, 1},       {"I16", 2, 1},
    {"I32", 4, 1},      {"I64", 8, 1},      {"F16", 2, 1},      {"BF16", 2, 1},
    {"F32", 4, 1},      {"F64", 8, 1},      {"F8_E4M3", 1, 1},  {"F8_E5M2", 1, 1},
    {"Q4_0", 18, 32},   {"Q4_1", 20, 32},   {"Q5_0", 22, 32},   {"Q5_1", 24, 32},
    {"Q8_0", 34, 32},   {"Q2_K", 84, 256},  {"Q3_K", 110, 256}, {"Q4_K", 144, 256},
    {"Q5_K", 176, 256}, {"Q6_K", 210, 256}, {"IQ4_NL", 18, 32}, {"IQ4_XS", 136, 256},
}};

const Description& describe(DType dtype) { return kDescriptions[static_cast<std::size_t>(dtype)]; }

}  // namespace

std::size_t item_size(DType dtype) { return describe(dtype).item_size; }
std::int64_t item_values(DType dtype) { return describe(dtype).item_values; }
bool is_block(DType dtype) { return item_values(dtype) > 1; }
std::string to_string(DType dtype) { return describe(dtype).name; }

std::string compute_name(DType dtype) {
  if (dtype == DType::kBF16) return "bf16";
  if (dtype == DType::kF16) return "fp16";
  return dtype == DType::kF32 ? "fp32" : "";
}

std::optional<DType> dtype_of_compute_name(const std::string& name) {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    if (compute_name(dtype) == name) return dtype;
  }
  return std::nullopt;
}

std::int64_t value_count(const std::vector<std::int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

std::string shape_to_string(const std::vector<std::int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

}  // namespace steadyflux
