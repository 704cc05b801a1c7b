// LoRAs on the layers of one component. Plain weights are changed where they have been brought to,
// before anything is computed with them; packed weights stay as they are, and their layers add what
// the LoRA adds to every product. Either way there is no second copy of the model, and what is
// computed does not depend on where weights live.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "lora/lora_file.h"
#include "nn/packed_tensor.h"

namespace steadyflux {

// What a LoRA adds to y = x W^T, computed beside it.
class LoraBranch {
 public:
  virtual ~LoraBranch() = default;
  // `x` [..., in], `y` [..., out] = x W^T without bias: what is to be added to y.
  virtual at::Tensor operator()(const at::Tensor& x, const at::Tensor& y) const = 0;
};
using LoraBranches = std::vector<std::unique_ptr<LoraBranch>>;

class LoraLayers {
 public:
  // All of `file` that is for `component`, with the strength that the user gave.
  void add(std::shared_ptr<const LoraFile> file, LoraComponent component, double strength);

  bool empty() const { return layers_.empty(); }
  // Is there something for the tensor of this name ("transformer_blocks.3.attn.to_q.weight")?
  bool changes(const std::string& tensor) const;

  // Changes a tensor's plain values in place, wherever they are. Computed in fp32, rounded once.
  void merge(const std::string& tensor, const at::Tensor& values) const;
  // For a packed weight: what to add to its products, on its device and in its dtype; null if that
  // is nothing.
  std::shared_ptr<const LoraBranches> branches(const std::string& tensor,
                                               const PackedTensor& weight) const;

 private:
  struct Applied {
    std::shared_ptr<const LoraFile> file;  // keeps the mapping
    const LoraTerm* term;
    double strength;
  };

  const std::vector<Applied>* find(const std::string& tensor) const;

  std::map<std::string, std::vector<Applied>> layers_;  // by layer
};

}  // namespace steadyflux
