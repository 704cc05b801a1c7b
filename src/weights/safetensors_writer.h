// Writing .safetensors: 8 bytes little-endian header length, JSON header, data. The header is made
// on its own, so that data of any size can follow it without being in memory at once. What is
// written here opens with safetensors.h and with the Python package.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "weights/tensor_view.h"

namespace steadyflux {

struct TensorLayout {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
};

// Bytes of such a tensor. Throws Error{kInternal} for a negative side and what no file can hold.
std::size_t tensor_bytes(const TensorLayout& layout);

// The length and the JSON header, padded so that the data begins at a multiple of 8. The data of
// `tensors` must follow in their order, without gaps; so an order of falling item sizes keeps all
// of them aligned. Throws Error: kInternal for names given twice, kBadInput for text that is not
// UTF-8 and headers larger than the format allows.
std::vector<std::uint8_t> safetensors_header(std::span<const TensorLayout> tensors,
                                             const std::map<std::string, std::string>& metadata);

struct TensorToWrite {
  TensorLayout layout;
  std::span<const std::byte> data;  // tensor_bytes(layout)
};

// A whole file, its tensors in such an order that all are aligned; `data` are those that were
// given. Throws Error{kInternal} also where data is not of its layout's size.
struct SafetensorsParts {
  std::vector<std::uint8_t> header;
  std::vector<std::span<const std::byte>> data;
};
SafetensorsParts safetensors_parts(std::vector<TensorToWrite> tensors,
                                   const std::map<std::string, std::string>& metadata);

// The same in one piece, for small files.
std::vector<std::uint8_t> safetensors_bytes(std::vector<TensorToWrite> tensors,
                                            const std::map<std::string, std::string>& metadata);

}  // namespace steadyflux
