// Reader of one .safetensors file: 8 bytes little-endian header length, JSON header, data.
// Everything in the header is checked against the file before any tensor is handed out.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "weights/tensor_view.h"

namespace steadyflux {

struct SafetensorsFile {
  std::map<std::string, TensorView> tensors;
  std::map<std::string, std::string> metadata;  // "__metadata__"

  // Throws Error{kBadInput} with file, tensor, expected and found on anything that does not hold.
  static SafetensorsFile open(const std::filesystem::path& path);
};

}  // namespace steadyflux
