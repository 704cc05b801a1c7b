// The weights of one component (transformer, vae, ...): tensors by name, from one safetensors file
// or from shards listed in an index.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "weights/tensor_view.h"

namespace steadyflux {

class Checkpoint {
 public:
  // `folder` is a component folder of a diffusers pipeline. Looks for
  // {diffusion_pytorch_model,model}.safetensors[.index.json]. Throws Error{kBadInput}.
  static Checkpoint open(const std::filesystem::path& folder);

  // nullptr if there is no tensor of that name.
  const TensorView* find(const std::string& name) const;
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  // The file or folder to name in messages.
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  std::map<std::string, TensorView> tensors_;
};

}  // namespace steadyflux
