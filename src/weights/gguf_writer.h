// Writing .gguf, version 3: what the file is to hold is declared first, the data follows tensor by
// tensor in pieces, so that it need not be in memory at once. What is written here opens with
// gguf.h and is, byte for byte, what the Python package writes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "weights/safetensors_writer.h"

namespace steadyflux {

// A value of the metadata, in the type that it gets in the file. An empty array is one too.
using GgufValue =
    std::variant<std::uint8_t, std::int8_t, std::uint16_t, std::int16_t, std::uint32_t,
                 std::int32_t, std::uint64_t, std::int64_t, float, double, bool, std::string,
                 std::vector<std::int32_t>, std::vector<float>, std::vector<std::string>>;
// In the order of the file; readers like "general.architecture" first.
using GgufMetadata = std::vector<std::pair<std::string, GgufValue>>;

class GgufWriter {
 public:
  // Takes the bytes of the file in their order. What it throws comes out of write() and finish().
  using Sink = std::function<void(std::span<const std::byte>)>;

  // Writes everything before the data. Shapes are row-major, of at most four sides, none of them 0;
  // rows of block types are whole blocks. Throws Error: kInternal for such a shape that does not
  // hold, dtypes GGUF does not have, and names or keys given twice, empty or too long; kBadInput
  // for text that is not UTF-8.
  GgufWriter(std::vector<TensorLayout> tensors, const GgufMetadata& metadata, Sink sink);

  // More data of `tensor`, which is the first declared one that is not complete. Throws
  // Error{kInternal} if it is another one, or if it would get more than its layout says.
  void write(std::string_view tensor, std::span<const std::byte> data);
  // Throws Error{kInternal} unless the last tensor is complete.
  void finish() const;

  // Bytes of the whole file, known from the start: is there room for it?
  std::uint64_t file_bytes() const { return file_bytes_; }

 private:
  void pad(std::uint64_t written);

  std::vector<TensorLayout> tensors_;
  std::vector<std::uint64_t> sizes_;  // of the tensors' data, in bytes
  Sink sink_;
  std::size_t current_ = 0;    // tensors_.size(): all complete
  std::uint64_t written_ = 0;  // bytes of the current one
  std::uint64_t file_bytes_ = 0;
};

}  // namespace steadyflux
