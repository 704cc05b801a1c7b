#include "nn/lora_layers.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "config/row_chunks.h"
#include "nn/load.h"
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

at::Tensor on(const TensorView& view, const at::Device& device, at::ScalarType dtype) {
  return to_tensor(view).to(device, dtype);
}

// [rows, all the rest]: of a norm's weight one column.
at::Tensor as_matrix(const at::Tensor& t) { return t.reshape({t.size(0), -1}); }

// Rows of the whole delta that are rows [begin, end) of the layer's own.
at::Tensor selected(const at::Tensor& rows, const std::vector<RowRange>& ranges) {
  if (ranges.empty()) return rows;
  std::vector<at::Tensor> parts;
  for (const auto& range : ranges) {
    parts.push_back(rows.narrow(0, range.begin, range.end - range.begin));
  }
  return parts.size() == 1 ? parts.front() : at::cat(parts);
}

// Numbers of the rows of the whole delta, in the order of the layer's.
at::Tensor row_numbers(const LoraTerm& term) {
  return selected(at::arange(term.delta_rows(), at::kLong), term.rows);
}

// Rows of factor.left @ factor.right by their numbers, fp32.
at::Tensor rows_of(const LoraFactor& factor, const at::Tensor& numbers, const at::Device& device) {
  const auto left = as_matrix(on(factor.left, device, at::kFloat)).index_select(0, numbers);
  if (!factor.right) return left;
  return at::matmul(left, as_matrix(on(*factor.right, device, at::kFloat)));
}

// Rows of select(delta), without any scale: [count, in], fp32.
at::Tensor delta_rows(const LoraTerm& term, const at::Tensor& numbers_on_cpu,
                      const at::Device& device) {
  const auto numbers = numbers_on_cpu.to(device);
  switch (term.kind) {
    case LoraKind::kLora:
    case LoraKind::kFull:
      return rows_of(*term.first, numbers, device);
    case LoraKind::kLoha:
      return rows_of(*term.first, numbers, device) * rows_of(*term.second, numbers, device);
    case LoraKind::kLokr: {
      // Row i of kron(A, B) is kron(row i / m of A, row i % m of B), m the rows of B.
      const auto height = term.second->rows();
      const auto a = rows_of(*term.first, numbers.div(height, "floor"), device);  // [n, a]
      const auto b = rows_of(*term.second, numbers.remainder(height), device);    // [n, b]
      return (a.unsqueeze(2) * b.unsqueeze(1)).flatten(1);
    }
  }
  throw Error(ErrorKind::kInternal, "a LoRA of an unknown kind");
}

// dora / norm(W'), by row or column of W': what W' is multiplied with.
at::Tensor dora_factor(const LoraTerm& term, const at::Tensor& norms, const at::Device& device) {
  auto scale = on(*term.dora_scale, device, at::kFloat).flatten();
  if (term.dora_on_output) scale = selected(scale, term.rows);
  return scale / norms;
}

}  // namespace

void LoraLayers::add(std::shared_ptr<const LoraFile> file, LoraComponent component,
                     double strength) {
  if (strength == 0) return;
  for (const auto& target : file->targets) {
    if (target.component != component) continue;
    for (const auto& term : target.terms) layers_[target.layer].push_back({file, &term, strength});
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

// Values of a chunk of rows; bounds what is between the factors and the weight.
constexpr std::int64_t kMergeValues = std::int64_t{1} << 22;

// body(begin, count): rows of a matrix, a chunk at a time.
template <typename Body>
void for_merge_chunks(const at::Tensor& weight, Body body) {
  for_row_chunks(weight.size(0), std::max<std::int64_t>(kMergeValues / weight.size(1), 1), body);
}

// strength * scale * rows of delta.
at::Tensor scaled_delta(const LoraTerm& term, double strength, const at::Tensor& numbers,
                        std::int64_t begin, std::int64_t count, const at::Device& device) {
  return delta_rows(term, numbers.narrow(0, begin, count), device) * (strength * term.scale);
}

// Of the columns of W + strength * scale * delta, read chunk by chunk: rows(begin, count) of W.
template <typename Rows>
at::Tensor column_norms(const LoraTerm& term, double strength, const at::Tensor& numbers,
                        const at::Tensor& like, Rows rows) {
  at::Tensor sums;
  for_merge_chunks(like, [&](std::int64_t begin, std::int64_t count) {
    const auto changed =
        rows(begin, count) + scaled_delta(term, strength, numbers, begin, count, like.device());
    const auto squares = changed.square().sum(0);
    sums = sums.defined() ? sums + squares : squares;
  });
  return sums.sqrt();
}

void merge_bias(const LoraTerm& term, double strength, const at::Tensor& values) {
  const auto change = selected(on(*term.bias, values.device(), at::kFloat).flatten(), term.rows);
  values.copy_(values.to(at::kFloat) + change * (strength * term.scale));
}

}  // namespace

void LoraLayers::merge(const std::string& tensor, const at::Tensor& values) const {
  const auto* all = find(tensor);
  if (all == nullptr) return;
  if (is_bias(tensor)) {
    for (const auto& [file, term, strength] : *all) {
      if (term->bias) merge_bias(*term, strength, values);
    }
    return;
  }
  const auto weight = values.view({values.size(0), -1});
  const auto device = values.device();
  std::vector<at::Tensor> numbers, dora_by_column;
  for (const auto& [file, term, strength] : *all) {
    numbers.push_back(term->first ? row_numbers(*term) : at::Tensor());
    dora_by_column.emplace_back();
    if (!term->first || !term->dora_scale || term->dora_on_output) continue;
    const auto norms = column_norms(*term, strength, numbers.back(), weight,
                                    [&](std::int64_t begin, std::int64_t count) {
                                      return weight.narrow(0, begin, count).to(at::kFloat);
                                    });
    dora_by_column.back() = dora_factor(*term, norms, device);
  }
  for_merge_chunks(weight, [&](std::int64_t begin, std::int64_t count) {
    auto rows = weight.narrow(0, begin, count);
    const auto before = rows.to(at::kFloat);
    auto after = before.clone();
    for (std::size_t i = 0; i < all->size(); ++i) {
      const auto& [file, term, strength] = (*all)[i];
      if (!term->first) continue;
      const auto delta = scaled_delta(*term, strength, numbers[i], begin, count, device);
      if (!term->dora_scale) {
        after.add_(delta.view(after.sizes()));
        continue;
      }
      const auto changed = before + delta;
      if (term->dora_on_output) {
        auto scale = on(*term->dora_scale, device, at::kFloat).flatten();
        scale = selected(scale, term->rows).narrow(0, begin, count);
        const auto norms = changed.square().sum(1).sqrt();
        after.add_(changed * (scale / norms).unsqueeze(1) - before);
      } else {
        after.add_(changed * dora_by_column[i] - before);
      }
    }
    rows.copy_(after);
  });
}

namespace {

// y += up (down x), which LoHa's product of two products is too.
class LowRankBranch final : public LoraBranch {
 public:
  LowRankBranch(at::Tensor down, at::Tensor up) : down_(std::move(down)), up_(std::move(up)) {}
  at::Tensor operator()(const at::Tensor& x, const at::Tensor&) const override {
    return at::linear(at::linear(x, down_), up_);
  }

 private:
  at::Tensor down_, up_;  // [r, in], [out, r], scales in `up`
};

// y += delta x.
class DenseBranch final : public LoraBranch {
 public:
  explicit DenseBranch(at::Tensor delta) : delta_(std::move(delta)) {}
  at::Tensor operator()(const at::Tensor& x, const at::Tensor&) const override {
    return at::linear(x, delta_);
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
    const auto product = at::matmul(at::matmul(first_, matrix), second_.t()).flatten(-2);
    return rows_.defined() ? product.index_select(-1, rows_) : product;
  }

 private:
  at::Tensor first_, second_, rows_;
};

// What a branch adds, with W + delta scaled by row or by column as DoRA does.
class DoraBranch final : public LoraBranch {
 public:
  DoraBranch(std::unique_ptr<LoraBranch> delta, at::Tensor factor, const PackedTensor& weight,
             bool on_output)
      : delta_(std::move(delta)),
        factor_(std::move(factor)),
        weight_(weight),
        on_output_(on_output) {}
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& y) const override {
    if (on_output_) return (y + (*delta_)(x, y)) * factor_ - y;
    const auto scaled = x * factor_;
    const auto product = at::linear(scaled, weight_.unpacked());
    return product + (*delta_)(scaled, product) - y;
  }

 private:
  std::unique_ptr<LoraBranch> delta_;
  at::Tensor factor_;
  PackedTensor weight_;
  bool on_output_;
};

// Rows of the Khatri-Rao product: row i is kron(row i of a, row i of b).
at::Tensor row_products(const at::Tensor& a, const at::Tensor& b) {
  return (a.unsqueeze(2) * b.unsqueeze(1)).flatten(1);
}

std::unique_ptr<LoraBranch> delta_branch(const LoraTerm& term, double scale,
                                         const PackedTensor& weight) {
  const auto device = weight.device();
  const auto dtype = weight.dtype();
  const auto matrix = [&](const TensorView& view) {
    return as_matrix(on(view, device, at::kFloat));
  };
  const auto low_rank = [&](const at::Tensor& down, const at::Tensor& up) {
    return std::make_unique<LowRankBranch>(down.to(dtype),
                                           (selected(up, term.rows) * scale).to(dtype));
  };
  const auto& first = *term.first;
  switch (term.kind) {
    case LoraKind::kFull:
    case LoraKind::kLora:
      if (first.right) return low_rank(matrix(*first.right), matrix(first.left));
      break;
    case LoraKind::kLoha:
      if (first.right && term.second->right) {
        return low_rank(row_products(matrix(*first.right).t(), matrix(*term.second->right).t()).t(),
                        row_products(matrix(first.left), matrix(term.second->left)));
      }
      break;
    case LoraKind::kLokr: {
      const auto whole = [&](const LoraFactor& factor) {
        return factor.right ? at::matmul(matrix(factor.left), matrix(*factor.right))
                            : matrix(factor.left);
      };
      const auto rows = term.rows.empty() ? at::Tensor() : row_numbers(term).to(device);
      return std::make_unique<KroneckerBranch>((whole(first) * scale).to(dtype),
                                               whole(*term.second).to(dtype), rows);
    }
  }
  return std::make_unique<DenseBranch>(
      (delta_rows(term, row_numbers(term), device) * scale).to(dtype));
}

std::unique_ptr<LoraBranch> dora_branch(const LoraTerm& term, double strength,
                                        const PackedTensor& weight) {
  auto delta = delta_branch(term, strength * term.scale, weight);
  const auto values = weight.unpacked();
  const auto numbers = row_numbers(term);
  const auto rows = [&](std::int64_t begin, std::int64_t count) {
    return values.narrow(0, begin, count).to(at::kFloat);
  };
  at::Tensor norms;
  if (term.dora_on_output) {
    norms = at::empty({values.size(0)}, values.options().dtype(at::kFloat));
    for_merge_chunks(values, [&](std::int64_t begin, std::int64_t count) {
      const auto changed =
          rows(begin, count) + scaled_delta(term, strength, numbers, begin, count, values.device());
      norms.narrow(0, begin, count).copy_(changed.square().sum(1).sqrt());
    });
  } else {
    norms = column_norms(term, strength, numbers, values, rows);
  }
  const auto factor = dora_factor(term, norms, values.device()).to(weight.dtype());
  return std::make_unique<DoraBranch>(std::move(delta), factor, weight, term.dora_on_output);
}

}  // namespace

std::shared_ptr<const LoraBranches> LoraLayers::branches(const std::string& tensor,
                                                         const PackedTensor& weight) const {
  const auto* all = find(tensor);
  if (all == nullptr) return nullptr;
  auto result = std::make_shared<LoraBranches>();
  for (const auto& [file, term, strength] : *all) {
    if (!term->first) continue;
    result->push_back(term->dora_scale ? dora_branch(*term, strength, weight)
                                       : delta_branch(*term, strength * term->scale, weight));
  }
  return result;
}

}  // namespace steadyflux
