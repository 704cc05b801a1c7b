// Questions about the names and shapes in one file, for recognise.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "weights/tensor_view.h"

namespace steadyflux {

class TensorNames {
 public:
  explicit TensorNames(const std::map<std::string, TensorView>& tensors) : tensors_(tensors) {}

  bool has(const std::string& name) const { return tensors_.count(name) != 0; }

  // Is there a name that begins so?
  bool begins(const std::string& front) const {
    const auto it = tensors_.lower_bound(front);
    return it != tensors_.end() && it->first.starts_with(front);
  }

  bool contains(std::string_view part) const {
    return std::any_of(tensors_.begin(), tensors_.end(), [&](const auto& tensor) {
      return tensor.first.find(part) != std::string::npos;
    });
  }

  // 0 where there is no such tensor, or not that many axes.
  std::int64_t side(const std::string& name, std::size_t axis) const {
    const auto it = tensors_.find(name);
    return it == tensors_.end() || axis >= it->second.shape.size() ? 0 : it->second.shape[axis];
  }

  std::size_t axes(const std::string& name) const {
    const auto it = tensors_.find(name);
    return it == tensors_.end() ? 0 : it->second.shape.size();
  }

  // Values in a row of a linear layer's weight. bitsandbytes' 4-bit weights have lost their shape,
  // but not their number of values; biases are never quantised. 0 if it cannot be told.
  std::int64_t columns(const std::string& module) const {
    const std::int64_t rows = side(module + ".bias", 0);
    const auto it = tensors_.find(module + ".weight");
    if (it == tensors_.end()) return 0;
    if (!begins(module + ".weight.quant_state.")) return side(module + ".weight", 1);
    return rows == 0 ? 0 : 2 * static_cast<std::int64_t>(it->second.nbytes) / rows;
  }

  const std::map<std::string, TensorView>& all() const { return tensors_; }

 private:
  const std::map<std::string, TensorView>& tensors_;
};

}  // namespace steadyflux
