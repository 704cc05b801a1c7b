// Small LoRA files for the tests, and what their terms come to as plain matrices.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "lora/lora_file.h"
#include "temp_folder.h"
#include "weights/safetensors_writer.h"

namespace steadyflux {

struct Matrix {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::vector<double> values;

  double at(std::int64_t row, std::int64_t column) const {
    return values.at(static_cast<std::size_t>(row * columns + column));
  }
  bool operator==(const Matrix&) const = default;
};

inline Matrix to_matrix(const TensorView& view) {
  if (view.dtype != DType::kF32) throw std::runtime_error("the tests' tensors are F32");
  Matrix matrix{view.shape.at(0), view.shape.size() > 1 ? view.shape[1] : 1, {}};
  for (std::size_t i = 0; i < view.nbytes; i += sizeof(float)) {
    float value = 0;
    std::memcpy(&value, view.data + i, sizeof(float));
    matrix.values.push_back(value);
  }
  return matrix;
}

inline Matrix multiply(const Matrix& left, const Matrix& right) {
  Matrix product{left.rows, right.columns, {}};
  for (std::int64_t row = 0; row < left.rows; ++row) {
    for (std::int64_t column = 0; column < right.columns; ++column) {
      double sum = 0;
      for (std::int64_t i = 0; i < left.columns; ++i) sum += left.at(row, i) * right.at(i, column);
      product.values.push_back(sum);
    }
  }
  return product;
}

inline Matrix to_matrix(const LoraFactor& factor) {
  const Matrix left = to_matrix(factor.left);
  return factor.right ? multiply(left, to_matrix(*factor.right)) : left;
}

inline Matrix kronecker(const Matrix& a, const Matrix& b) {
  Matrix product{a.rows * b.rows, a.columns * b.columns, {}};
  for (std::int64_t row = 0; row < product.rows; ++row) {
    for (std::int64_t column = 0; column < product.columns; ++column) {
      product.values.push_back(a.at(row / b.rows, column / b.columns) *
                               b.at(row % b.rows, column % b.columns));
    }
  }
  return product;
}

inline Matrix select(const Matrix& all, const std::vector<RowRange>& ranges) {
  if (ranges.empty()) return all;
  Matrix some{0, all.columns, {}};
  for (const RowRange& range : ranges) {
    for (std::int64_t row = range.begin; row < range.end; ++row, ++some.rows) {
      for (std::int64_t i = 0; i < all.columns; ++i) some.values.push_back(all.at(row, i));
    }
  }
  return some;
}

// scale * select(delta), by the definition in lora_file.h.
inline Matrix delta_of(const LoraTerm& term) {
  Matrix delta = to_matrix(term.first.value());
  if (term.kind == LoraKind::kLoha) {
    const Matrix second = to_matrix(term.second.value());
    for (std::size_t i = 0; i < delta.values.size(); ++i) delta.values[i] *= second.values.at(i);
  } else if (term.kind == LoraKind::kLokr) {
    delta = kronecker(delta, to_matrix(term.second.value()));
  }
  delta = select(delta, term.rows);
  for (double& value : delta.values) value *= term.scale;
  return delta;
}

// A file in the making; values count upwards from tensor to tensor, so that no two are alike.
class LoraMaker {
 public:
  LoraMaker& floats(const std::string& name, std::vector<std::int64_t> shape,
                    std::vector<float> values = {}) {
    std::int64_t count = 1;
    for (const std::int64_t side : shape) count *= side;
    while (values.size() < static_cast<std::size_t>(count)) values.push_back(0.25F * next_++);
    std::vector<std::byte> bytes(values.size() * sizeof(float));
    if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
    return raw(name, DType::kF32, std::move(shape), std::move(bytes));
  }

  LoraMaker& raw(const std::string& name, DType dtype, std::vector<std::int64_t> shape,
                 std::vector<std::byte> bytes) {
    tensors_[name] = {{name, dtype, std::move(shape)}, std::move(bytes)};
    return *this;
  }

  // A pair of matrices, [rank, in] and [out, rank].
  LoraMaker& pair(const std::string& stem, std::int64_t out, std::int64_t in, std::int64_t rank,
                  const std::string& down = ".lora_A.weight",
                  const std::string& up = ".lora_B.weight") {
    return floats(stem + down, {rank, in}).floats(stem + up, {out, rank});
  }

  LoraMaker& alpha(const std::string& stem, float value) {
    return floats(stem + ".alpha", {}, {value});
  }

  LoraMaker& metadata(const std::string& key, const std::string& value) {
    metadata_[key] = value;
    return *this;
  }

  std::filesystem::path write(const TempFolder& folder, const std::string& name = "x") const {
    std::vector<TensorToWrite> list;
    for (const auto& [key, tensor] : tensors_) list.push_back({tensor.first, tensor.second});
    const auto bytes = safetensors_bytes(std::move(list), metadata_);
    std::filesystem::remove(folder / (name + ".safetensors"));  // a mapping keeps the old content
    folder.write(name + ".safetensors", std::string(bytes.begin(), bytes.end()));
    return folder / (name + ".safetensors");
  }

 private:
  std::map<std::string, std::pair<TensorLayout, std::vector<std::byte>>> tensors_;
  std::map<std::string, std::string> metadata_;
  float next_ = 1;
};

inline std::string name_of(const LoraTarget& target) {
  return to_string(target.component) + "." + target.layer;
}

inline std::vector<std::string> names_of(const LoraFile& lora) {
  std::vector<std::string> names;
  for (const LoraTarget& target : lora.targets) names.push_back(name_of(target));
  return names;
}

inline const LoraTerm& only_term(const LoraFile& lora, const std::string& name) {
  for (const LoraTarget& target : lora.targets) {
    if (name_of(target) == name && target.terms.size() == 1) return target.terms[0];
  }
  throw std::runtime_error("no target with one term is called " + name);
}

}  // namespace steadyflux
