// How the weights of a unit lie in one buffer, and which bytes of which files fill it.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "nn/load.h"
#include "nn/weight_provider.h"
#include "weights/uncached_file.h"

namespace steadyflux {

struct UnitLayout {
  // Bytes of the checkpoint and where they go.
  struct Piece {
    TensorView view;       // holds the mapping
    at::ScalarType dtype;  // in the buffer; kByte: the file's bytes
    std::int64_t count;    // of values, or bytes
    std::int64_t offset;   // in the buffer, bytes
    bool in_reads;         // `reads` bring it, else it is converted or copied by itself

    std::int64_t bytes() const {
      return count * static_cast<std::int64_t>(c10::elementSize(dtype));
    }
  };
  struct Tensor {
    TensorSlot slot;
    StoredTensor stored;
    at::ScalarType dtype;  // computed with
    // Plain values: one. Packed values that stay so: one for each part that there is, in the order
    // of packed_parts.
    std::vector<Piece> pieces;
    // Neither: values that have to be put together, `pieces` says only where they go.
    bool made = false;

    bool packed() const { return !made && stored.packed(); }
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
  std::vector<Read> reads;
  std::int64_t bytes = 0;  // of the buffer

  // What the LoRAs on a unit's packed weights add, one for each tensor; null where there is
  // nothing.
  using Branches = std::vector<std::shared_ptr<const LoraBranches>>;

  // Makes the slots views of `buffer` (bytes, [at least bytes]), and lets go of it.
  void bind(const at::Tensor& buffer, const Branches& branches = {}) const;
  void unbind() const;
  // What LoRAs make of the weights in `buffer`: plain ones are changed there, of packed ones the
  // branches are given.
  void merge(const at::Tensor& buffer, const LoraLayers& loras) const;
  Branches make_branches(const at::Tensor& buffer, const LoraLayers& loras) const;
};

// On the CPU, what the file has as it is computed with (packed, or of that dtype) comes by `reads`,
// which make the buffer an image of parts of the file: every tensor has the alignment it has in the
// mapped file, so that a product computed from either is the same to the bit, and nothing is copied
// after reading.
UnitLayout make_layout(const WeightUnit& unit, const ComponentWeights& checkpoint,
                       const LoadOptions& options);

}  // namespace steadyflux
