// Weights that stay packed in memory and on the device (GGML blocks, 8-bit floats, 4-bit codes). A
// layer unpacks them right before it computes with them; what was unpacked lives no longer than
// that.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "weights/stored_tensor.h"

namespace steadyflux {

// The parts that the bytes of a packed tensor come in. Those that a format lacks are empty.
constexpr std::size_t kPackedParts = 4;  // values, scales, absmax, nested_absmax
std::array<const TensorView*, kPackedParts> packed_parts(const StoredRows& rows);

class PackedTensor {
 public:
  // `parts` as packed_parts lists them: bytes on one device, in a mapped file or in a buffer;
  // undefined where there are none. `dtype`: what it is unpacked to unless asked otherwise.
  PackedTensor(std::vector<std::int64_t> shape, const StoredRows& rows,
               std::array<at::Tensor, kPackedParts> parts, at::ScalarType dtype);
  // Over the mapped file.
  static PackedTensor in_place(const StoredTensor& stored, at::ScalarType dtype);

  const std::vector<std::int64_t>& shape() const { return shape_; }
  at::ScalarType dtype() const { return dtype_; }
  at::Device device() const { return parts_[0].device(); }

  // The same with every part's bytes replaced by what `copy` makes of them.
  PackedTensor copied(const std::function<at::Tensor(const at::Tensor&)>& copy) const;

  // All values, of `shape`, where the bytes are. Rounded once, from fp32, to the dtype.
  at::Tensor unpacked() const { return unpacked(dtype_); }
  at::Tensor unpacked(at::ScalarType dtype) const;
  // The rows of these numbers (int64, on the CPU): [ids.numel(), row]. For tables on the CPU.
  at::Tensor unpacked_rows(const at::Tensor& ids, at::ScalarType dtype) const;

 private:
  std::vector<std::int64_t> shape_;
  at::ScalarType dtype_;
  void point_to_parts();

  PackedValues layout_;  // its pointers are those of the parts on the CPU, null on a device
  std::array<at::Tensor, kPackedParts> parts_;
  std::shared_ptr<const CodeTables> tables_;
};

}  // namespace steadyflux
