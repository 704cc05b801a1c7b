#include "nn/lora_layers.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

#include "config/row_chunks.h"
#include "nn/load.h"
#include "nn/products.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kBias = ".bias";

bool is_bias(const std::string& tensor) { return tensor.ends_with(kBias); }

std::string layer_of(const std::string& tensor) {
  const auto suffix = is_bias(tensor) ? kBias : kWeight;
  return tensor.ends_with(suffix) ? tensor.substr(0, tensor.size() - suffix.size()) : tensor;
}

// [rows, all the rest]: of a norm's weight one column.
at::Tensor as_matrix(const TensorView& view) {
  const auto tensor = to_tensor(view);
  return tensor.reshape({tensor.size(0), -1});
}

at::Tensor fp32_matrix(const TensorView& view, const at::Device& device) {
  return as_matrix(view).to(device, at::kFloat);
}

at::Tensor fp32_vector(const TensorView& view, const at::Device& device) {
  return to_tensor(view).flatten().to(device, at::kFloat);
}

// Of rows of the whole delta those that are the layer's, in the layer's order.
at::Tensor selected(const at::Tensor& rows, const std::vector<RowRange>& ranges) {
  if (ranges.empty()) return rows;
  std::vector<at::Tensor> parts;
  for (const auto& range : ranges) {
    parts.push_back(rows.narrow(0, range.begin, range.end - range.begin));
  }
  return parts.size() == 1 ? parts.front() : at::cat(parts);
}

// Numbers of the rows of the whole delta, in the order of the layer's; on the CPU.
at::Tensor row_numbers(const LoraTerm& term) {
  return selected(at::arange(term.delta_rows(), at::kLong), term.rows);
}

// The matrix of a LoraFactor, some rows at a time: only these are brought to the device.
class FactorRows {
 public:
  FactorRows(const LoraFactor& factor, const at::Device& device)
      : device_(device), left_(as_matrix(factor.left)) {
    if (factor.right) right_ = fp32_matrix(*factor.right, device);
  }
  // fp32, times `scale`.
  at::Tensor operator()(const at::Tensor& numbers, double scale) const {
    auto rows = left_.index_select(0, numbers).to(device_, at::kFloat);
    if (scale != 1) rows = rows * scale;
    return right_.defined() ? at::matmul(rows, right_) : rows;
  }

 private:
  at::Device device_;
  at::Tensor left_, right_;  // as it lies in the file; fp32 on the device
};

// scale * select(delta), some rows at a time, fp32. Of a layer with more columns the others are 0.
class DeltaRows {
 public:
  DeltaRows(const LoraTerm& term, double scale, std::int64_t columns, const at::Device& device)
      : kind_(term.kind),
        scale_(term.kind == LoraKind::kWhole ? 1 : scale),
        columns_(columns),
        numbers_(row_numbers(term)),
        first_(*term.first, device) {
    if (!term.second) return;
    second_.emplace(*term.second, device);
    second_rows_ = term.second->rows();
  }
  at::Tensor operator()(std::int64_t begin, std::int64_t count) const {  // [count, columns]
    auto rows = own_columns(numbers_.narrow(0, begin, count));
    const auto missing = columns_ - rows.size(1);
    return missing > 0 ? at::constant_pad_nd(rows, {0, missing}) : rows;
  }

  // Row i of the result is kron(row i of a, row i of b): [n, a], [n, b] -> [n, a * b].
  static at::Tensor row_products(const at::Tensor& a, const at::Tensor& b) {
    return (a.unsqueeze(2) * b.unsqueeze(1)).flatten(1);
  }

 private:
  at::Tensor own_columns(const at::Tensor& numbers) const {
    switch (kind_) {
      case LoraKind::kLora:
      case LoraKind::kFull:
      case LoraKind::kWhole:
        return first_(numbers, scale_);
      case LoraKind::kLoha:
        return first_(numbers, scale_).mul_((*second_)(numbers, 1));
      case LoraKind::kLokr: {
        // Row i of kron(A, B) is kron(row i / m of A, row i % m of B), m the rows of B.
        const auto a = first_(numbers.div(second_rows_, "floor"), scale_);
        return row_products(a, (*second_)(numbers.remainder(second_rows_), 1));
      }
    }
    throw Error(ErrorKind::kInternal, "a LoRA of an unknown kind");
  }

  LoraKind kind_;
  double scale_;
  std::int64_t columns_;
  at::Tensor numbers_;
  FactorRows first_;
  std::optional<FactorRows> second_;
  std::int64_t second_rows_ = 0;
};

// Values of a chunk of rows; bounds what is between the factors and the weight.
constexpr std::int64_t kMergeValues = std::int64_t{1} << 22;

// body(begin, count): rows of a matrix, a chunk at a time.
template <typename Body>
void for_merge_chunks(const at::Tensor& matrix, Body body) {
  for_row_chunks(matrix.size(0), std::max<std::int64_t>(kMergeValues / matrix.size(1), 1), body);
}

// Lengths below this are no directions: they stay, whatever DoRA wants of them.
constexpr double kLeastNorm = 1e-7;

// What DoRA multiplies the rows of W' = W + delta with, dora_scale / norm: [out]; or its columns:
// [in]. fp32; `weight` [out, in] in any dtype.
at::Tensor dora_factor(const LoraTerm& term, const DeltaRows& delta, const at::Tensor& weight) {
  const auto device = weight.device();
  const auto by_row = term.dora_on_output;
  auto squares = at::zeros({weight.size(by_row ? 0 : 1)}, weight.options().dtype(at::kFloat));
  for_merge_chunks(weight, [&](std::int64_t begin, std::int64_t count) {
    const auto changed = delta(begin, count).add_(weight.narrow(0, begin, count)).square_();
    if (by_row) {
      squares.narrow(0, begin, count).copy_(changed.sum(1));
    } else {
      squares.add_(changed.sum(0));
    }
  });
  auto scale = fp32_vector(*term.dora_scale, device);
  if (by_row) scale = selected(scale, term.rows);
  return scale / squares.sqrt_().clamp_min_(kLeastNorm);
}

}  // namespace

void LoraLayers::add(std::shared_ptr<const LoraFile> file, LoraComponent component,
                     double strength) {
  for (const auto& target : file->targets) {
    if (target.component != component) continue;
    for (const auto& term : target.terms) {
      if (strength == 0 && term.kind != LoraKind::kWhole) continue;
      layers_[target.layer].push_back({file, &term, strength});
    }
  }
}

const std::vector<LoraLayers::Applied>* LoraLayers::find(const std::string& tensor) const {
  const auto it = layers_.find(layer_of(tensor));
  return it == layers_.end() ? nullptr : &it->second;
}

bool LoraLayers::changes(const std::string& tensor) const {
  const auto* applied = find(tensor);
  return applied != nullptr &&
         std::any_of(applied->begin(), applied->end(), [&](const Applied& one) {
           return is_bias(tensor) ? one.term->bias.has_value() : one.term->first.has_value();
         });
}

namespace {

// b += the changes of all terms, rounded once.
template <typename Terms>
void merge_bias(const Terms& terms, const at::Tensor& bias) {
  auto sum = bias.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
  for (const auto& [file, term, strength] : terms) {
    if (!term->bias) continue;
    sum.add_(selected(fp32_vector(*term->bias, bias.device()), term->rows), strength * term->scale);
  }
  bias.copy_(sum);
}

// A term ready to be added to the rows of a weight.
struct MergedTerm {
  DeltaRows delta;
  bool replaces;
  at::Tensor dora;  // [out, 1] or [1, in]; undefined without DoRA

  MergedTerm(const LoraTerm& term, double strength, const at::Tensor& weight)
      : delta(term, strength * term.scale, weight.size(1), weight.device()),
        replaces(term.kind == LoraKind::kWhole) {
    if (!term.dora_scale) return;
    dora = dora_factor(term, delta, weight).unsqueeze(term.dora_on_output ? 1 : 0);
  }
  at::Tensor dora_of_rows(std::int64_t begin, std::int64_t count) const {
    return dora.size(0) == 1 ? dora : dora.narrow(0, begin, count);
  }
};

}  // namespace

void LoraLayers::merge(const std::string& tensor, const at::Tensor& values) const {
  const auto* all = find(tensor);
  if (all == nullptr) return;
  if (is_bias(tensor)) {
    merge_bias(*all, values);
    return;
  }
  const auto weight = values.view({values.size(0), -1});
  std::vector<MergedTerm> terms;
  for (const auto& [file, term, strength] : *all) {
    if (term->first) terms.emplace_back(*term, strength, weight);
  }
  const bool any_dora =
      std::any_of(terms.begin(), terms.end(), [](const auto& term) { return term.dora.defined(); });
  for_merge_chunks(weight, [&](std::int64_t begin, std::int64_t count) {
    const auto rows = weight.narrow(0, begin, count);
    auto sum = rows.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
    const auto before = any_dora ? sum.clone() : at::Tensor();
    for (const auto& term : terms) {
      auto change = term.delta(begin, count);
      if (term.dora.defined()) {
        change.add_(before).mul_(term.dora_of_rows(begin, count)).sub_(before);
      }
      if (term.replaces) sum.zero_();
      sum.add_(change);
    }
    rows.copy_(sum);
  });
}

namespace {

// y += up (down x), which LoHa's product of two products is too. The rank is filled up with zeros
// to what tensor cores take; and a row of a product with a vector would depend on the other rows.
class LowRankBranch final : public LoraBranch {
 public:
  LowRankBranch(const at::Tensor& down, const at::Tensor& up) {
    constexpr std::int64_t kMultiple = 8;
    const auto missing = (kMultiple - down.size(0) % kMultiple) % kMultiple;
    down_ = at::constant_pad_nd(down, {0, 0, 0, missing});
    up_ = at::constant_pad_nd(up, {0, missing});
  }
  at::Tensor operator()(const at::Tensor& x, const at::Tensor&) const override {
    return products::linear(products::linear(x, down_), up_);
  }

 private:
  at::Tensor down_, up_;  // [r, in], [out, r], all scales in `up`
};

// y += delta x.
class DenseBranch final : public LoraBranch {
 public:
  explicit DenseBranch(at::Tensor delta) : delta_(std::move(delta)) {}
  at::Tensor operator()(const at::Tensor& x, const at::Tensor&) const override {
    return products::linear(x, delta_);
  }

 private:
  at::Tensor delta_;  // [out, in]
};

// kron(A, B) x = A X B^T, X being x as a matrix.
class KroneckerBranch final : public LoraBranch {
 public:
  KroneckerBranch(at::Tensor first, at::Tensor second, at::Tensor rows)
      : first_(std::move(first)), second_(std::move(second)), rows_(std::move(rows)) {}
  at::Tensor operator()(const at::Tensor& x, const at::Tensor&) const override {
    const auto matrix = x.unflatten(-1, {first_.size(1), second_.size(1)});  // [..., a, b]
    const auto product =
        products::matmul(products::matmul(first_, matrix), second_.t()).flatten(-2);
    return rows_.defined() ? product.index_select(-1, rows_) : product;
  }

 private:
  at::Tensor first_, second_, rows_;
};

// What DoRA adds: f (W + delta) x - W x = (f - 1) W x + f delta x where f is by row; by column it
// is x that is multiplied, and W x has to be computed anew.
class DoraBranch final : public LoraBranch {
 public:
  DoraBranch(std::unique_ptr<LoraBranch> delta, const at::Tensor& factor,
             const PackedTensor& weight, bool on_output)
      : delta_(std::move(delta)),
        factor_(factor.to(weight.dtype())),
        factor_less_one_((factor - 1).to(weight.dtype())),
        weight_(weight),
        on_output_(on_output) {}
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& y) const override {
    if (on_output_) return y * factor_less_one_ + (*delta_)(x, y) * factor_;
    return products::linear(x * factor_less_one_, weight_.unpacked()) + (*delta_)(x * factor_, y);
  }

 private:
  std::unique_ptr<LoraBranch> delta_;
  at::Tensor factor_, factor_less_one_;  // [out] or [in]
  PackedTensor weight_;
  bool on_output_;
};

// LoRA's two factors, or what LoHa comes to as two; nothing if delta itself is smaller.
std::unique_ptr<LoraBranch> low_rank_branch(const LoraTerm& term, double scale,
                                            const PackedTensor& weight) {
  const auto& first = *term.first;
  if (!first.right || (term.second && !term.second->right)) return nullptr;
  const auto rank = first.right->shape[0] * (term.second ? term.second->right->shape[0] : 1);
  const auto out = weight.shape()[0], in = weight.shape()[1];
  if (rank * (out + in) >= out * in) return nullptr;
  const auto matrix = [&](const TensorView& view) { return fp32_matrix(view, weight.device()); };
  auto down = matrix(*first.right);
  auto up = selected(matrix(first.left), term.rows) * scale;
  if (term.second) {
    down = DeltaRows::row_products(down.t(), matrix(*term.second->right).t()).t();
    up = DeltaRows::row_products(up, selected(matrix(term.second->left), term.rows));
  }
  down = at::constant_pad_nd(down, {0, in - down.size(1)});
  return std::make_unique<LowRankBranch>(down.to(weight.dtype()), up.to(weight.dtype()));
}

std::unique_ptr<LoraBranch> kronecker_branch(const LoraTerm& term, double scale,
                                             const PackedTensor& weight) {
  const auto whole = [&](const LoraFactor& factor) {
    const auto left = fp32_matrix(factor.left, weight.device());
    return factor.right ? at::matmul(left, fp32_matrix(*factor.right, weight.device())) : left;
  };
  const auto rows = term.rows.empty() ? at::Tensor() : row_numbers(term).to(weight.device());
  return std::make_unique<KroneckerBranch>((whole(*term.first) * scale).to(weight.dtype()),
                                           whole(*term.second).to(weight.dtype()), rows);
}

std::unique_ptr<LoraBranch> delta_branch(const LoraTerm& term, double scale,
                                         const PackedTensor& weight) {
  const bool all_columns = term.delta_columns() == weight.shape()[1];
  if (term.kind == LoraKind::kLokr && all_columns) return kronecker_branch(term, scale, weight);
  if (auto branch = low_rank_branch(term, scale, weight)) return branch;
  const DeltaRows rows(term, scale, weight.shape()[1], weight.device());
  auto delta =
      at::empty(weight.shape(), at::TensorOptions().dtype(weight.dtype()).device(weight.device()));
  for_merge_chunks(delta, [&](std::int64_t begin, std::int64_t count) {
    delta.narrow(0, begin, count).copy_(rows(begin, count));
  });
  return std::make_unique<DenseBranch>(delta);
}

std::unique_ptr<LoraBranch> dora_branch(const LoraTerm& term, double scale,
                                        const PackedTensor& weight) {
  const DeltaRows delta(term, scale, weight.shape()[1], weight.device());
  const auto factor = dora_factor(term, delta, weight.unpacked());
  return std::make_unique<DoraBranch>(delta_branch(term, scale, weight), factor, weight,
                                      term.dora_on_output);
}

}  // namespace

std::shared_ptr<const LoraBranches> LoraLayers::branches(const std::string& tensor,
                                                         const PackedTensor& weight) const {
  const auto* all = find(tensor);
  if (all == nullptr) return nullptr;
  auto result = std::make_shared<LoraBranches>();
  for (const auto& [file, term, strength] : *all) {
    if (!term->first) continue;
    const auto scale = strength * term->scale;
    result->push_back(term->dora_scale ? dora_branch(*term, scale, weight)
                                       : delta_branch(*term, scale, weight));
  }
  return result->empty() ? nullptr : result;
}

}  // namespace steadyflux
