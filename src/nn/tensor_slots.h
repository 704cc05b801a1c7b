// How layers bind their weights. A layer is a plain struct of at::Tensor members; its `visit` names
// every member once, with its shape. Whoever walks the slots decides what happens: load from a
// checkpoint, count bytes, move to a device, release. Nothing is allocated by walking.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nn/compute.h"
#include "nn/packed_tensor.h"

namespace steadyflux {

class LoraBranch;
using LoraBranches = std::vector<std::unique_ptr<LoraBranch>>;

struct TensorSlot {
  std::string name;                  // full key in the checkpoint
  at::Tensor* tensor;                // where it goes
  std::vector<std::int64_t> shape;   // what the config demands
  bool keep_in_fp32 = false;         // stays fp32 when the model runs in fp16 (T5's `wo`)
  std::vector<std::string> aliases;  // other names the same tensor has in the field
  bool host_table = false;           // rows are looked up in the file: stays there, as it is
  // A matrix of the file with so many columns will do too; the others are 0, which only LoRAs
  // change. 0: all have to be there.
  std::int64_t stored_columns = 0;
  // Where values go that are packed in the file and may stay so; without it they are unpacked.
  std::optional<PackedTensor>* packed = nullptr;
  // Where a packed weight's LoRAs go.
  std::shared_ptr<const LoraBranches>* branches = nullptr;
  Compute* compute = nullptr;  // what the layer multiplies in whose matrix this is
};

// Collects slots under a growing prefix: scope("attn").tensor("norm_q.weight", norm_q, {64}).
class SlotScope {
 public:
  explicit SlotScope(std::vector<TensorSlot>& slots, std::string prefix = "")
      : slots_(slots), prefix_(std::move(prefix)) {}

  SlotScope scope(const std::string& name) const { return SlotScope(slots_, prefix_ + name + "."); }
  SlotScope scope(const std::string& name, std::size_t index) const {
    return SlotScope(slots_, prefix_ + name + "." + std::to_string(index) + ".");
  }
  TensorSlot& tensor(const std::string& name, at::Tensor& slot,
                     std::vector<std::int64_t> shape) const {
    slots_.push_back({prefix_ + name, &slot, std::move(shape), false, {}});
    return slots_.back();
  }

 private:
  std::vector<TensorSlot>& slots_;
  std::string prefix_;
};

}  // namespace steadyflux
