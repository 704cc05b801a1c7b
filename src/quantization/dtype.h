// How numbers are stored in files. Plain types have one value per item. Block types pack a group of
// values with its scales into one block; their names and layouts are GGML's
// (https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h describes them).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace steadyflux {

enum class DType {
  kBool,
  kU8,
  kI8,
  kI16,
  kI32,
  kI64,
  kF16,
  kBF16,
  kF32,
  kF64,
  kF8E4M3,  // e4m3fn: no infinities
  kF8E5M2,
  // GGML's blocks.
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_NL,
  kIQ4_XS,
};

// Bytes of one item: of a value or, for block types, of a block.
std::size_t item_size(DType dtype);
// Values in an item: 1, or 32 or 256 for block types.
std::int64_t item_values(DType dtype);
bool is_block(DType dtype);
// The name safetensors files use, "BF16", "F8_E4M3"; GGML's for blocks, "Q4_K".
std::string to_string(DType dtype);
// As options name the dtypes that models compute in: "bf16", "fp16", "fp32"; "" for all others, and
// nothing for other names.
std::string compute_name(DType dtype);
std::optional<DType> dtype_of_compute_name(const std::string& name);
// The product of the sides: of no sides, 1.
std::int64_t value_count(const std::vector<std::int64_t>& shape);
// "[2, 3, 4]"
std::string shape_to_string(const std::vector<std::int64_t>& shape);

}  // namespace steadyflux
