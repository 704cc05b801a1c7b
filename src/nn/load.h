// From a checkpoint into the slots of a model: every name, dtype and shape is checked before the
// first tensor is made; what fits as it lies in the file, packed values too, is used in place,
// without a copy.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <functional>
#include <string>
#include <vector>

#include "nn/lora_layers.h"
#include "nn/tensor_slots.h"
#include "weights/component_weights.h"

namespace steadyflux {

// A tensor over the mapped file, without a copy (read-only memory: never write to it). Copies only
// if the data is not aligned to its element.
at::Tensor to_tensor(const TensorView& view);

struct LoadOptions {
  at::ScalarType dtype = at::kFloat;
  c10::Device device = c10::Device(c10::kCPU);
  // Key -> key with what some writers add in front removed ("text_model."); may be empty.
  std::string optional_prefix;
  // Keys of the checkpoint that a model legitimately leaves out (prefixes): encoder half of the
  // VAE, position_ids buffers, tied copies.
  std::vector<std::string> ignored_prefixes;
  // The slots are the whole model: a tensor of the checkpoint that none of them takes is an error.
  bool complete = true;
  // Tensors own their bytes: nothing is a view of the mapped file, but for host tables.
  bool copy = false;
  // Applied to what is loaded; null: none.
  const LoraLayers* loras = nullptr;
  // Called with bytes done and bytes in all, between tensors; may throw to end the load.
  std::function<void(std::int64_t, std::int64_t)> progress;
};

// Throws Error{kBadInput} naming file and tensor: missing, of the wrong shape, of a dtype that no
// weight has, or left over.
void load_slots(const ComponentWeights& checkpoint, const std::vector<TensorSlot>& slots,
                const LoadOptions& options);

// The same checks without making a tensor: what costs nothing is found before anything is computed.
void check_slots(const ComponentWeights& checkpoint, const std::vector<TensorSlot>& slots,
                 const LoadOptions& options);

// What load_slots would load, in the order of the slots, after its checks.
std::vector<const StoredTensor*> match_slots(const ComponentWeights& checkpoint,
                                             const std::vector<TensorSlot>& slots,
                                             const LoadOptions& options);

// The values of any stored tensor, plain or packed, in fp32 on the CPU, some at a time: `sink` gets
// those from number `first` on.
void read_dense(const StoredTensor& stored,
                const std::function<void(std::int64_t first, const at::Tensor& values)>& sink);

// The dtype that a slot's tensor has in a model that computes in `dtype`.
at::ScalarType slot_dtype(const TensorSlot& slot, at::ScalarType dtype);

// The dtype of plain weights in files; throws Error{kBadInput} for others.
at::ScalarType weight_dtype(const TensorView& view);

// Bytes of all slots at the dtype.
std::int64_t slot_bytes(const std::vector<TensorSlot>& slots, at::ScalarType dtype);

}  // namespace steadyflux
