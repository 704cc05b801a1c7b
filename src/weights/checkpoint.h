// Tensors by name as files hold them: one safetensors or GGUF file, told apart by what is in it, or
// a component folder of a diffusers pipeline with one such file or shards listed in an index.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "weights/tensor_view.h"

namespace steadyflux {

class Checkpoint {
 public:
  // A file, or a component folder, in which {diffusion_pytorch_model,model}.safetensors
  // [.index.json] is looked for, or the one variant of it or .gguf file. Throws Error{kBadInput}.
  static Checkpoint open(const std::filesystem::path& path);

  // nullptr if there is no tensor of that name.
  const TensorView* find(const std::string& name) const;
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  // The file to name in messages.
  const std::filesystem::path& path() const { return path_; }
  // Of a single file: GGUF's values, or the texts of safetensors' "__metadata__". An object.
  const nlohmann::json& metadata() const { return metadata_; }
  bool is_gguf() const { return is_gguf_; }

 private:
  void read_file(const std::filesystem::path& file);

  std::filesystem::path path_;
  std::map<std::string, TensorView> tensors_;
  nlohmann::json metadata_ = nlohmann::json::object();
  bool is_gguf_ = false;
};

}  // namespace steadyflux
