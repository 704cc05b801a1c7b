// Weight files for tests, from tensors in memory: matrices plain or packed, vectors fp32.
#pragma once

#include <ATen/ATen.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "quantization/quantize.h"
#include "weights/gguf_writer.h"
#include "weights/safetensors_writer.h"

namespace steadyflux::testing {

// fp32, under the names of the model.
using NamedTensors = std::map<std::string, at::Tensor>;

// `matrices`: kF32 or kBF16 as they are, kF8E4M3 with one scale for each (as ComfyUI has it), or
// one of GGML's block types, whose file is a GGUF. Returns the file's path.
inline std::filesystem::path write_weights(const std::filesystem::path& folder,
                                           const NamedTensors& tensors, DType matrices) {
  const auto byte_count = [](DType dtype, const std::vector<std::int64_t>& shape) {
    std::int64_t count = 1;
    for (const auto side : shape) count *= side;
    return static_cast<std::size_t>(count / item_values(dtype)) * item_size(dtype);
  };
  std::vector<TensorLayout> layouts;
  std::vector<std::vector<std::byte>> data;
  const auto add = [&](const std::string& name, DType dtype, std::vector<std::int64_t> shape,
                       const void* bytes) {
    const auto* begin = static_cast<const std::byte*>(bytes);
    data.emplace_back(begin, begin + byte_count(dtype, shape));
    layouts.push_back({name, dtype, std::move(shape)});
  };
  for (const auto& [name, tensor] : tensors) {
    const auto values = tensor.to(at::kFloat).contiguous();
    const auto* floats = values.const_data_ptr<float>();
    const auto shape = values.sizes().vec();
    const auto dtype = shape.size() == 2 ? matrices : DType::kF32;
    std::vector<std::byte> packed(byte_count(dtype, shape));
    if (dtype == DType::kF32) {
      add(name, dtype, shape, floats);
    } else if (dtype == DType::kBF16) {
      add(name, dtype, shape, values.to(at::kBFloat16).contiguous().const_data_ptr());
    } else if (dtype == DType::kF8E4M3) {
      const float scale = float8_e4m3_scale(floats, values.numel());
      quantize_float8_e4m3(floats, values.numel(), scale, packed.data());
      add(name, dtype, shape, packed.data());
      const auto layer = name.substr(0, name.rfind('.'));
      add(layer + ".scale_weight", DType::kF32, {1}, &scale);
    } else {
      quantize(dtype, floats, values.numel(), packed.data());
      add(name, dtype, shape, packed.data());
    }
  }
  std::string file;
  const auto append = [&](std::span<const std::byte> bytes) {
    file.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  if (is_block(matrices)) {
    GgufWriter writer(layouts, {{"general.architecture", std::string("flux")}}, append);
    for (std::size_t i = 0; i < data.size(); ++i) writer.write(layouts[i].name, data[i]);
    writer.finish();
  } else {
    std::vector<TensorToWrite> list;
    for (std::size_t i = 0; i < data.size(); ++i) list.push_back({layouts[i], data[i]});
    const auto bytes = safetensors_bytes(list, {});
    append(std::as_bytes(std::span(bytes)));
  }
  auto path = folder / (is_block(matrices) ? "weights.gguf" : "weights.safetensors");
  std::filesystem::remove(path);  // a mapping keeps the old content
  std::ofstream(path, std::ios::binary) << file;
  return path;
}

}  // namespace steadyflux::testing
