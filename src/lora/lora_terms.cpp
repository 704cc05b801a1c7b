#include "lora/lora_terms.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <utility>

#include "base/utf8.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

// Of any side of a matrix, so that products of two sides never overflow.
constexpr std::int64_t kMaxSide = std::int64_t{1} << 31;

std::uint64_t little_endian(const std::byte* data, std::size_t size) {
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < size; ++i) bits |= std::uint64_t(data[i]) << (8 * i);
  return bits;
}

double half_to_double(std::uint32_t bits) {
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  const int exponent = static_cast<int>(bits >> 10 & 0x1F);
  const int fraction = static_cast<int>(bits & 0x3FF);
  if (exponent == 0x1F) {
    return fraction == 0 ? sign * std::numeric_limits<double>::infinity()
                         : std::numeric_limits<double>::quiet_NaN();
  }
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

// nullopt for dtypes that no trainer writes an alpha in.
std::optional<double> scalar_value(const TensorView& view) {
  const std::uint64_t bits =
      little_endian(view.data, std::min(item_size(view.dtype), sizeof(std::uint64_t)));
  switch (view.dtype) {
    case DType::kF64:
      return std::bit_cast<double>(bits);
    case DType::kF32:
      return std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    case DType::kBF16:
      return std::bit_cast<float>(static_cast<std::uint32_t>(bits << 16));
    case DType::kF16:
      return half_to_double(static_cast<std::uint32_t>(bits));
    case DType::kI32:
      return static_cast<double>(static_cast<std::int32_t>(bits));
    case DType::kI64:
      return static_cast<double>(static_cast<std::int64_t>(bits));
    default:
      return std::nullopt;
  }
}

class GroupReader {
 public:
  GroupReader(const LoraGroup& group, const std::string& stem, const std::filesystem::path& path)
      : group_(group), stem_(stem), path_(path) {}

  LoraGroupTerms read() {
    LoraGroupTerms result;
    result.alpha = read_alpha();
    if (has_any({LoraRole::kDown, LoraRole::kUp, LoraRole::kMid, LoraRole::kUpBias})) {
      result.terms.push_back(read_lora());
    }
    if (has_any({LoraRole::kHadaW1A, LoraRole::kHadaW1B, LoraRole::kHadaW2A, LoraRole::kHadaW2B,
                 LoraRole::kHadaTucker})) {
      result.terms.push_back(read_loha());
    }
    if (has_any({LoraRole::kLokrW1, LoraRole::kLokrW1A, LoraRole::kLokrW1B, LoraRole::kLokrW2,
                 LoraRole::kLokrW2A, LoraRole::kLokrW2B, LoraRole::kLokrTucker})) {
      result.terms.push_back(read_lokr());
    }
    if (find(LoraRole::kDiff) != nullptr) result.terms.push_back(read_full());
    if (find(LoraRole::kWhole) != nullptr) result.terms.push_back(read_whole());
    if (find(LoraRole::kDiffBias) != nullptr) add_diff_bias(result.terms);
    if (find(LoraRole::kDoraScale) != nullptr) add_dora_scale(result.terms);
    for (LoraTerm& term : result.terms) {
      term.source = stem_;
      if (result.alpha && term.rank > 0) {
        term.scale = *result.alpha / static_cast<double>(term.rank);
      }
    }
    return result;
  }

 private:
  Error fail(const LoraTensor& tensor, const std::string& what) const {
    return Error(ErrorKind::kBadInput,
                 fmt::format("{}: tensor '{}': {}", path_.string(), printable(tensor.key), what));
  }

  const LoraTensor* find(LoraRole role) const {
    const auto it = group_.find(role);
    return it == group_.end() ? nullptr : &it->second;
  }

  bool has_any(std::initializer_list<LoraRole> roles) const {
    for (const LoraRole role : roles) {
      if (find(role) != nullptr) return true;
    }
    return false;
  }

  // A tensor that `beside` cannot do without.
  const LoraTensor& partner(LoraRole role, const std::string& name) const {
    if (const LoraTensor* tensor = find(role)) return *tensor;
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: '{}' has no {}; the file has only {} of what makes up the layer's "
                            "change: it is damaged or was cut",
                            path_.string(), printable(stem_), name, keys()));
  }

  std::string keys() const {
    std::string list;
    for (const auto& [role, tensor] : group_) {
      static_cast<void>(role);
      list += fmt::format("{}'{}'", list.empty() ? "" : ", ", printable(tensor.key));
    }
    return list;
  }

  void refuse_tucker(LoraRole role) const {
    if (const LoraTensor* tensor = find(role)) {
      throw fail(*tensor, "Tucker decompositions are for convolutions, of which FLUX.1 has none");
    }
  }

  // Checked dtype and sides; sides of 1 after the second are dropped (1x1 convolutions).
  TensorView floats(const LoraTensor& tensor, std::size_t min_dimensions,
                    std::size_t max_dimensions) const {
    TensorView view = tensor.view;
    if (view.dtype != DType::kF32 && view.dtype != DType::kF16 && view.dtype != DType::kBF16) {
      throw fail(tensor, fmt::format("dtype {}, expected F32, F16 or BF16", to_string(view.dtype)));
    }
    while (view.shape.size() > 2 && view.shape.back() == 1) view.shape.pop_back();
    if (view.shape.size() < min_dimensions || view.shape.size() > max_dimensions) {
      throw fail(tensor, fmt::format("shape {}, expected {} of a linear layer",
                                     shape_to_string(tensor.view.shape),
                                     max_dimensions == 1   ? "a vector"
                                     : min_dimensions == 1 ? "the weight"
                                                           : "a matrix"));
    }
    for (const std::int64_t side : view.shape) {
      if (side < 1 || side > kMaxSide) {
        throw fail(tensor, fmt::format("shape {}, expected sides from 1 to {}",
                                       shape_to_string(tensor.view.shape), kMaxSide));
      }
    }
    return view;
  }

  TensorView matrix(const LoraTensor& tensor) const { return floats(tensor, 2, 2); }

  LoraFactor product(const LoraTensor& left, const LoraTensor& right) const {
    LoraFactor factor{matrix(left), matrix(right)};
    if (factor.left.shape[1] != factor.right->shape[0]) {
      throw fail(left, fmt::format("shape {} does not multiply with {} of '{}'",
                                   shape_to_string(factor.left.shape),
                                   shape_to_string(factor.right->shape), printable(right.key)));
    }
    return factor;
  }

  static std::int64_t rank_of(const LoraFactor& factor) {
    return factor.right ? factor.right->shape[0] : 0;
  }

  std::optional<double> read_alpha() const {
    const LoraTensor* tensor = find(LoraRole::kAlpha);
    if (tensor == nullptr) return std::nullopt;
    for (const std::int64_t side : tensor->view.shape) {
      if (side != 1) {
        throw fail(*tensor, fmt::format("shape {}, expected one number",
                                        shape_to_string(tensor->view.shape)));
      }
    }
    const auto value = scalar_value(tensor->view);
    if (!value) {
      throw fail(*tensor, fmt::format("dtype {}, expected a floating-point number",
                                      to_string(tensor->view.dtype)));
    }
    if (!std::isfinite(*value) || *value < 0) {
      throw fail(*tensor, fmt::format("alpha is {}, expected a number from 0 up", *value));
    }
    return value;
  }

  LoraTerm read_lora() const {
    refuse_tucker(LoraRole::kMid);
    const LoraTensor& up = partner(LoraRole::kUp, "lora_up (lora_B)");
    LoraTerm term;
    term.first = product(up, partner(LoraRole::kDown, "lora_down (lora_A)"));
    term.rank = rank_of(*term.first);
    if (const LoraTensor* bias = find(LoraRole::kUpBias)) term.bias = bias_for(*bias, term);
    return term;
  }

  LoraTerm read_loha() const {
    refuse_tucker(LoraRole::kHadaTucker);
    const LoraTensor& w1_a = partner(LoraRole::kHadaW1A, "hada_w1_a");
    const LoraTensor& w2_a = partner(LoraRole::kHadaW2A, "hada_w2_a");
    LoraTerm term;
    term.kind = LoraKind::kLoha;
    term.first = product(w1_a, partner(LoraRole::kHadaW1B, "hada_w1_b"));
    term.second = product(w2_a, partner(LoraRole::kHadaW2B, "hada_w2_b"));
    if (term.first->rows() != term.second->rows() ||
        term.first->columns() != term.second->columns()) {
      throw fail(w2_a, fmt::format("it makes a [{}, {}], but '{}' a [{}, {}]; expected the same",
                                   term.second->rows(), term.second->columns(), printable(w1_a.key),
                                   term.first->rows(), term.first->columns()));
    }
    term.rank = rank_of(*term.first);
    return term;
  }

  LoraTerm read_lokr() const {
    refuse_tucker(LoraRole::kLokrTucker);
    LoraTerm term;
    term.kind = LoraKind::kLokr;
    term.first = lokr_factor(LoraRole::kLokrW1, LoraRole::kLokrW1A, LoraRole::kLokrW1B, "lokr_w1");
    term.second = lokr_factor(LoraRole::kLokrW2, LoraRole::kLokrW2A, LoraRole::kLokrW2B, "lokr_w2");
    // Without a rank alpha means nothing, as everywhere.
    term.rank = term.second->right ? rank_of(*term.second) : rank_of(*term.first);
    return term;
  }

  LoraFactor lokr_factor(LoraRole whole, LoraRole left, LoraRole right, const char* name) const {
    const LoraTensor* matrix_tensor = find(whole);
    if (matrix_tensor == nullptr) {
      const LoraTensor& left_tensor = partner(left, fmt::format("{0} or {0}_a", name));
      return product(left_tensor, partner(right, fmt::format("{0} or {0}_b", name)));
    }
    if (has_any({left, right})) {
      throw fail(*matrix_tensor, "there is also its decomposition; expected one of the two");
    }
    return LoraFactor{matrix(*matrix_tensor), std::nullopt};
  }

  LoraTerm read_full() const {
    LoraTerm term;
    term.kind = LoraKind::kFull;
    term.first = LoraFactor{floats(*find(LoraRole::kDiff), 1, 2), std::nullopt};
    return term;
  }

  LoraTerm read_whole() const {
    LoraTerm term;
    term.kind = LoraKind::kWhole;
    term.first = LoraFactor{floats(*find(LoraRole::kWhole), 1, 1), std::nullopt};
    return term;
  }

  TensorView bias_for(const LoraTensor& tensor, const LoraTerm& term) const {
    TensorView view = floats(tensor, 1, 1);
    if (term.first && view.shape[0] != term.delta_rows()) {
      throw fail(tensor, fmt::format("shape {}, expected [{}] like the rows of the weight's change",
                                     shape_to_string(view.shape), term.delta_rows()));
    }
    return view;
  }

  void add_diff_bias(std::vector<LoraTerm>& terms) const {
    const LoraTensor& tensor = *find(LoraRole::kDiffBias);
    // Alpha is not for it, so it goes with a full difference or alone.
    if (terms.empty() || terms.back().kind != LoraKind::kFull) {
      terms.emplace_back();
      terms.back().kind = LoraKind::kFull;
    }
    terms.back().bias = bias_for(tensor, terms.back());
  }

  void add_dora_scale(std::vector<LoraTerm>& terms) const {
    const LoraTensor& tensor = *find(LoraRole::kDoraScale);
    std::size_t adapters = 0;
    for (const LoraTerm& each : terms) adapters += each.first ? 1 : 0;
    if (terms.empty()) return;
    if (adapters != 1 || terms[0].kind == LoraKind::kFull) {
      throw fail(tensor, "a DoRA magnitude needs exactly one LoRA, LoHa or LoKr in its layer");
    }
    LoraTerm& term = terms[0];
    TensorView view = floats(tensor, 1, 2);
    const std::int64_t rows = term.delta_rows();
    const std::int64_t columns = term.delta_columns();
    const auto& shape = view.shape;
    const bool on_output =
        shape[0] == rows && (shape.size() == 1 || (shape.size() == 2 && shape[1] == 1));
    const bool on_input = shape.size() == 2 && shape[0] == 1 && shape[1] == columns;
    if (!on_output && !on_input) {
      throw fail(tensor, fmt::format("shape {}, expected [{}], [{}, 1] or [1, {}]",
                                     shape_to_string(tensor.view.shape), rows, rows, columns));
    }
    view.shape = {on_output ? rows : columns};
    term.dora_scale = std::move(view);
    term.dora_on_output = on_output;
  }

  const LoraGroup& group_;
  const std::string& stem_;
  const std::filesystem::path& path_;
};

}  // namespace

LoraGroupTerms read_lora_group(const LoraGroup& group, const std::string& stem,
                               const std::filesystem::path& path) {
  return GroupReader(group, stem, path).read();
}

}  // namespace steadyflux
