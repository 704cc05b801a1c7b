// A tensor as a model knows it, by name and shape, and the stretches of files that hold it. A file
// may fuse several tensors of a model into one, or have the halves of one the other way round; and
// its values may be packed (quantization/packed_values.h). Nothing is read or copied here.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "quantization/packed_values.h"
#include "weights/tensor_view.h"

namespace steadyflux {

// What the codes of bitsandbytes' formats stand for.
struct CodeTables {
  std::array<float, 16> code{};
  std::array<float, 256> nested_code{};
};

// Where the bytes of a packed tensor are, apart from its codes: beside it in the file.
struct PackedCompanions {
  Packing packing = Packing::kBlocks;
  TensorView scales;  // kScaled, F32, BF16 or F16; no data: there are none
  float scale_factor = 1;
  TensorView absmax;         // kCodes4
  TensorView nested_absmax;  // no data: absmax is not quantised itself
  std::shared_ptr<const CodeTables> tables;
  std::int64_t block = 64;
  std::int64_t first_value = 0;
  std::int64_t nested_block = 256;
  float nested_offset = 0;
};

// Consecutive rows of one stored tensor.
struct StoredRows {
  TensorView values;  // the bytes of these rows; for packed ones the shape is that of the values
  std::optional<PackedCompanions> packed;

  // Of the values and what belongs to them.
  std::vector<const TensorView*> views() const;
};

struct StoredTensor {
  std::vector<std::int64_t> shape;
  std::vector<StoredRows> rows;  // one after the other, almost always one stretch

  const StoredRows& first() const { return rows.front(); }
  DType dtype() const { return first().values.dtype; }
  bool packed() const { return first().packed.has_value(); }
  // Packed and in one piece: can stay so in memory.
  bool keeps_packed() const { return packed() && rows.size() == 1; }
  // Plain values in one piece: can be used as they lie.
  bool plain_in_place() const { return !packed() && rows.size() == 1; }
  std::size_t nbytes() const;  // in files, companions included
  const std::filesystem::path& path() const { return first().values.file->path(); }
};

// As packed_values.h wants it, over the mapped file.
PackedValues packed_values(const StoredRows& rows);

// Values of plain or packed rows as fp32: [first, first + count) as `unpack` counts them.
void read_values(const StoredRows& rows, std::int64_t first, std::int64_t count, float* to);

}  // namespace steadyflux
