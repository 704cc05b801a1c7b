// FLUX.1's tensors as the goldens of scripts/make_name_goldens.py have them: names, shapes, and
// where the rows come from in files that name them otherwise.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "weights/tensor_view.h"

namespace steadyflux::testing {

using Shapes = std::map<std::string, std::vector<std::int64_t>>;

struct Share {
  std::string stored;
  int index = 0;
  int of = 1;

  bool operator==(const Share&) const = default;
};

struct NamedTensor {
  std::vector<std::int64_t> shape;
  std::vector<Share> shares;  // equal ones, in the order of the tensor's rows
};

using NamedTensors = std::map<std::string, NamedTensor>;

inline std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (auto at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

// How many blocks "N" stands for in a name, and the first of them.
struct Blocks {
  int begin = 0;
  int end = 1;
};
inline Blocks blocks_of(const std::string& name) {
  if (name.starts_with("transformer_blocks.N.")) return {0, 19};
  if (name.starts_with("single_transformer_blocks.N.")) return {0, 38};
  if (name.starts_with("encoder.layers.N.")) return {0, 12};
  if (name.starts_with("encoder.block.N.")) return {1, 24};
  return {};
}

inline Share parse_share(const std::string& text) {
  const auto colon = text.find(':'), slash = text.find('/');
  if (colon == std::string::npos) return {text};
  return {text.substr(0, colon), std::stoi(text.substr(colon + 1)),
          std::stoi(text.substr(slash + 1))};
}

// `component`: transformer (dev's), text_encoder, text_encoder_2, vae.
inline NamedTensors flux1_names(const std::string& component) {
  const auto path = std::filesystem::path(STEADYFLUX_SOURCE_DIR) / "tests" / "checkpoints" /
                    "goldens" / (component + ".txt");
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot read " + path.string());
  NamedTensors result;
  for (std::string line; std::getline(file, line);) {
    const Blocks blocks = blocks_of(line);
    for (int i = blocks.begin; i < blocks.end; ++i) {
      std::istringstream fields(replaced(line, ".N.", "." + std::to_string(i) + "."));
      std::string name, shape, shares, item;
      fields >> name >> shape >> shares;
      NamedTensor tensor;
      for (std::istringstream sides(shape); std::getline(sides, item, 'x');) {
        tensor.shape.push_back(std::stoll(item));
      }
      for (std::istringstream parts(shares); std::getline(parts, item, ';');) {
        tensor.shares.push_back(parse_share(item));
      }
      if (!result.emplace(name, tensor).second) throw std::runtime_error("twice: " + name);
    }
  }
  return result;
}

inline Shapes shapes_of(const NamedTensors& tensors) {
  Shapes shapes;
  for (const auto& [name, tensor] : tensors) shapes[name] = tensor.shape;
  return shapes;
}

// The shapes under the other names; BFL's VAE has convolutions where diffusers has matrices.
inline Shapes stored_shapes_of(const NamedTensors& tensors) {
  Shapes shapes;
  for (const auto& [name, tensor] : tensors) {
    auto shape = tensor.shape;
    const auto& share = tensor.shares.front();
    shape[0] = shape[0] / static_cast<std::int64_t>(tensor.shares.size()) * share.of;
    if (share.stored.find(".mid.attn_1.") != std::string::npos && shape.size() == 2) {
      shape.insert(shape.end(), {1, 1});
    }
    shapes[share.stored] = shape;
  }
  return shapes;
}

// As if read from a file; the data is not there.
inline std::map<std::string, TensorView> views_of(const Shapes& shapes,
                                                  const std::string& prefix = "") {
  std::map<std::string, TensorView> views;
  for (const auto& [name, shape] : shapes) {
    TensorView& view = views[prefix + name];
    view.dtype = DType::kBF16;
    view.shape = shape;
    view.nbytes = 2;
    for (const auto side : shape) view.nbytes *= static_cast<std::size_t>(side);
  }
  return views;
}

}  // namespace steadyflux::testing
