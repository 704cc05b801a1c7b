// A typed, shaped window into a mapped file. Torch-free: nn/load turns it into an at::Tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "quantization/dtype.h"
#include "weights/mapped_file.h"

namespace steadyflux {

struct TensorView {
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;  // of values; rows of block types are whole blocks
  const std::byte* data = nullptr;  // inside file->bytes(); aligned to item_size(dtype) or not
  std::size_t nbytes = 0;  // == product(shape) / item_values(dtype) * item_size(dtype), checked
  std::shared_ptr<const MappedFile> file;
};

}  // namespace steadyflux
