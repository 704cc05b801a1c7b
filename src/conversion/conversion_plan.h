// What the converted file is to hold: every tensor of it with its name, type and rows, and the
// metadata. Pure bookkeeping: no value is read.
//
// GGUF files are those that gguf-py, ComfyUI-GGUF and stable-diffusion.cpp read: a transformer in
// Black Forest Labs' names, T5 in llama.cpp's. As in the files people share, what is small or
// delicate keeps its precision: one-dimensional tensors are F32, embedders and the last layer stay
// in the source's type. fp8 is ComfyUI's scaled form in a safetensors file.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "conversion/conversion_source.h"
#include "quantization/dtype.h"
#include "weights/gguf_writer.h"

namespace steadyflux {

// "q8_0", ..., "bf16", "f16", "fp8": what a file may be converted to.
std::vector<std::string> conversion_type_names();
std::optional<DType> conversion_type(const std::string& name);
std::string conversion_type_name(DType type);
// ".gguf" or ".safetensors"
std::string conversion_extension(DType type);

struct PlannedTensor {
  std::string name;  // in the new file
  DType dtype = DType::kF32;
  DType wide = DType::kF32;  // instead, where the values are out of the range of `dtype`
  std::vector<std::int64_t> shape;
  std::vector<StoredRows> rows;  // one after the other
};

struct ConversionPlan {
  DType type = DType::kQ8_0;
  std::vector<PlannedTensor> tensors;  // blocks in their order
  GgufMetadata gguf_metadata;
  std::map<std::string, std::string> safetensors_metadata;
  std::vector<std::string> warnings;
};

// Throws Error{kBadInput} for tensors that are missing, are none of the component's, or do not go
// together.
ConversionPlan plan_conversion(const ConversionSource& source, DType type);

}  // namespace steadyflux
