// Reader of one .gguf file, versions 2 and 3, little-endian: header, metadata, descriptions of the
// tensors, data (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Everything before the
// data is checked against the file before any tensor is handed out; the data is not touched.
//
// As in ggml, the tensors fill the data without overlaps, and without holes but the padding to the
// alignment, in any order here. After the last of them the file may end at once or with its
// padding, not later. What padding consists of is not looked at.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>

#include "weights/tensor_view.h"

namespace steadyflux {

inline constexpr std::uint64_t kGgufAlignment = 32;  // without "general.alignment"
inline constexpr std::size_t kGgufMaxDimensions = 4;
// Followed by a tensor's name: the shape it had before it was reshaped to be quantised.
inline constexpr const char* kGgufOriginalShape = "comfy.gguf.orig_shape.";

struct GgufFile {
  std::uint32_t version = 0;
  // Shapes are row-major, that is GGUF's dimensions backwards: [out, in] of a linear layer. Where
  // the metadata has the original shape of a tensor, that one. Scalars have none: [].
  std::map<std::string, TensorView> tensors;
  // An object. Integers, float and double are numbers (NaN and infinities too), strings are UTF-8.
  nlohmann::json metadata;

  // Throws Error{kBadInput} with file, tensor or key, expected and found on anything that does not
  // hold, and for tensors of types that dtype_of_ggml_type() does not know.
  static GgufFile open(const std::filesystem::path& path);
};

// Do these bytes begin a GGUF file, of whatever version and byte order?
bool is_gguf(std::span<const std::byte> beginning);

// The numbers GGUF files have for types; nothing for what steadyflux, or else GGML, has no type of.
std::optional<DType> dtype_of_ggml_type(std::uint32_t type);
std::optional<std::uint32_t> ggml_type_of(DType dtype);

}  // namespace steadyflux
