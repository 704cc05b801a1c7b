// How the weights of a unit lie in one buffer, and which bytes of which files fill it.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <string>
#include <vector>

#include "nn/load.h"
#include "nn/weight_provider.h"
#include "weights/uncached_file.h"

namespace steadyflux {

struct UnitLayout {
  struct Tensor {
    TensorSlot slot;
    TensorView view;       // in the checkpoint; holds the mapping
    at::ScalarType dtype;  // computed with
    std::int64_t offset;   // in the buffer, bytes
  };
  // Bytes of a file that go into the buffer as they are. Offsets and sizes keep to
  // UncachedFile::kAlignment.
  struct Read {
    const MappedFile* file;
    std::uint64_t offset;
    std::size_t size;
    std::size_t needed;
    std::int64_t to;  // in the buffer
  };

  std::string name;
  std::vector<Tensor> tensors;
  std::vector<Read> reads;  // empty if values have to be converted or moved on their way
  std::int64_t bytes = 0;   // of the buffer

  // Makes the slots views of `buffer` (bytes, [at least bytes]), and lets go of it.
  void bind(const at::Tensor& buffer) const;
  void unbind() const;
};

// `direct`: on the CPU, where the file has the dtype that is computed with, the buffer is an image
// of parts of the file: every tensor has the alignment it has in the mapped file, so that a product
// computed from either is the same to the bit, and nothing is copied after reading.
UnitLayout make_layout(const WeightUnit& unit, const Checkpoint& checkpoint,
                       const LoadOptions& options);

// Bytes on the CPU for `size` bytes of a buffer, aligned for uncached reads; in large pages if the
// system has them.
at::Tensor allocate_aligned(std::int64_t size);

}  // namespace steadyflux
