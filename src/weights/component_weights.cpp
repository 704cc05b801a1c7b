#include "weights/component_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <vector>

#include "base/utf8.h"
#include "steadyflux/error.h"
#include "weights/packed_parts.h"

namespace steadyflux {
namespace {

const char* what_it_is(Component component) {
  switch (component) {
    case Component::kTransformer:
      return "FLUX.1 transformer";
    case Component::kTextEncoder:
      return "CLIP text encoder";
    case Component::kTextEncoder2:
      return "T5 encoder";
    case Component::kVae:
      return "VAE of FLUX.1";
    case Component::kImageEncoder:
      return "SigLIP image encoder";
    case Component::kImageEmbedder:
      return "FLUX.1-Redux (redux_up, redux_down)";
  }
  return "";
}

// Puts the stretches of rows of each of the model's tensors in order.
class Placer {
 public:
  void place(const RowPlacement& to, const std::string& stored_name, const StoredRows& rows) {
    const auto& shape = rows.values.shape;
    const auto all = shape.empty() ? 1 : shape.front();
    if (all % to.of != 0) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{}: tensor {} has shape {}, whose first side is no multiple of {}",
                              rows.values.file->path().string(), printable(stored_name),
                              shape_to_string(shape), to.of));
    }
    auto& stretches = targets_[to.name];
    stretches.resize(static_cast<std::size_t>(to.stretches));
    auto& stretch = stretches[static_cast<std::size_t>(to.position)];
    if (stretch) return;  // the same tensor under two names
    stretch = to.of == 1
                  ? rows
                  : cut_rows(rows, all / to.of * to.begin, all / to.of * to.end, stored_name);
  }

  std::map<std::string, StoredTensor> tensors() const {
    std::map<std::string, StoredTensor> result;
    for (const auto& [name, stretches] : targets_) result.emplace(name, join(name, stretches));
    return result;
  }

 private:
  using Stretches = std::vector<std::optional<StoredRows>>;

  static StoredTensor join(const std::string& name, const Stretches& stretches) {
    StoredTensor tensor;
    for (const auto& stretch : stretches) {
      if (!stretch) {
        throw Error(ErrorKind::kBadInput, fmt::format("{} is there in part only", printable(name)));
      }
      const auto& shape = stretch->values.shape;
      if (tensor.rows.empty()) {
        tensor.shape = shape;
      } else {
        tensor.shape.front() += shape.front();
      }
      tensor.rows.push_back(*stretch);
    }
    return tensor;
  }

  std::map<std::string, Stretches> targets_;
};

}  // namespace

ComponentWeights::ComponentWeights(const Checkpoint& checkpoint) : path_(checkpoint.path()) {
  for (auto& [name, rows] : assemble_packed(checkpoint.tensors())) {
    auto shape = rows.values.shape;
    tensors_.emplace(name, StoredTensor{std::move(shape), {rows}});
  }
}

ComponentWeights ComponentWeights::open(const std::filesystem::path& path, Component component) {
  const auto checkpoint = Checkpoint::open(path);
  if (auto found = find_in(checkpoint, component)) return std::move(*found);
  throw Error(ErrorKind::kBadInput,
              fmt::format("{}: holds no {}", checkpoint.path().string(), what_it_is(component)));
}

std::optional<ComponentWeights> ComponentWeights::find_in(const Checkpoint& checkpoint,
                                                          Component component) {
  const auto& stored = checkpoint.tensors();
  ComponentWeights result;
  result.path_ = checkpoint.path();
  for (const std::string_view prefix : known_prefixes(component)) {
    int up_blocks = 0;
    std::map<std::string, TensorView> stripped;
    for (const auto& [full_name, view] : stored) {
      const auto name = strip_prefix(full_name, prefix);
      if (!name) continue;
      stripped.emplace(*name, view);
      up_blocks = std::max(up_blocks, least_up_blocks(*name));
    }
    const bool any = std::any_of(stripped.begin(), stripped.end(), [&](const auto& tensor) {
      return !placements(component, split_companion(tensor.first).base, up_blocks).empty();
    });
    if (!any) continue;
    Placer placer;
    for (const auto& [name, rows] : assemble_packed(stripped)) {
      if (is_ignored(component, name)) continue;
      const auto to = placements(component, name, up_blocks);
      for (const auto& placement : to) placer.place(placement, name, rows);
      // Kept, so that a tensor that no model has is noticed.
      if (to.empty()) placer.place({name}, name, rows);
    }
    result.tensors_ = placer.tensors();
    return result;
  }
  return std::nullopt;
}

const StoredTensor* ComponentWeights::find(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

}  // namespace steadyflux
