// The weights of one component under the names that its model uses, those of diffusers and
// transformers, whatever the files call them: BFL's and ComfyUI's names, llama.cpp's, prefixes of
// checkpoints that hold several components. What belongs to a packed tensor (scales, code tables)
// is put together with it.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "weights/checkpoint.h"
#include "weights/key_names.h"
#include "weights/stored_tensor.h"

namespace steadyflux {

class ComponentWeights {
 public:
  // `path`: a component folder or a file, as Checkpoint takes it. Throws Error{kBadInput}, also for
  // packed tensors whose parts do not fit together.
  static ComponentWeights open(const std::filesystem::path& path, Component component);
  // Nothing if no tensor belongs to such a component.
  static std::optional<ComponentWeights> find_in(const Checkpoint& checkpoint, Component component);
  // Names as they are in the files.
  // NOLINTNEXTLINE(google-explicit-constructor): it is the same thing, seen by models.
  ComponentWeights(const Checkpoint& checkpoint);

  // nullptr if there is no tensor of that name.
  const StoredTensor* find(const std::string& name) const;
  const std::map<std::string, StoredTensor>& tensors() const { return tensors_; }
  // The file or folder to name in messages.
  const std::filesystem::path& path() const { return path_; }

 private:
  ComponentWeights() = default;
  std::filesystem::path path_;
  std::map<std::string, StoredTensor> tensors_;
};

}  // namespace steadyflux
