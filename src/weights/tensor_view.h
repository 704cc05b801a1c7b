// A typed, shaped window into a mapped file. Torch-free: nn/load turns it into an at::Tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "weights/mapped_file.h"

namespace steadyflux {

enum class DType { kBool, kU8, kI8, kI16, kI32, kI64, kF16, kBF16, kF32, kF64, kF8E4M3, kF8E5M2 };

// Bytes of one element.
std::size_t item_size(DType dtype);
// The name safetensors files use: "BF16", "F32", ...
std::string to_string(DType dtype);
// As options name the dtypes that models compute in: "bf16", "fp16", "fp32"; "" for all others, and
// nothing for other names.
std::string compute_name(DType dtype);
std::optional<DType> dtype_of_compute_name(const std::string& name);
// "[2, 3, 4]"
std::string shape_to_string(const std::vector<std::int64_t>& shape);

struct TensorView {
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  const std::byte* data = nullptr;  // inside file->bytes(); aligned to item_size(dtype) or not
  std::size_t nbytes = 0;           // == product(shape) * item_size(dtype), checked at open
  std::shared_ptr<const MappedFile> file;
};

}  // namespace steadyflux
