#include "conversion/conversion_plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <set>
#include <string_view>
#include <utility>

#include "base/utf8.h"
#include "checkpoints/config_metadata.h"
#include "steadyflux/error.h"
#include "weights/packed_parts.h"

namespace steadyflux {
namespace {

struct TypeRow {
  const char* name;
  DType dtype;
  std::uint32_t file_type;  // llama.cpp's number, `general.file_type`
};
constexpr TypeRow kTypes[] = {
    {"q8_0", DType::kQ8_0, 7},  {"q4_0", DType::kQ4_0, 2},  {"q4_1", DType::kQ4_1, 3},
    {"q5_0", DType::kQ5_0, 8},  {"q5_1", DType::kQ5_1, 9},  {"q4_k", DType::kQ4_K, 14},
    {"q5_k", DType::kQ5_K, 16}, {"q6_k", DType::kQ6_K, 18}, {"bf16", DType::kBF16, 32},
    {"f16", DType::kF16, 1},    {"fp8", DType::kF8E4M3, 0},
};

// Matrices of so few values stay as they are: nothing is gained by making them smaller.
constexpr std::int64_t kSmallMatrix = 1024;

// As city96's files have them.
constexpr std::string_view kPreciseTransformer[] = {"img_in.",    "txt_in.",      "time_in.",
                                                    "vector_in.", "guidance_in.", "final_layer."};

constexpr std::array<const char*, 9> kT5Block = {"attn_norm", "attn_q", "attn_k",
                                                 "attn_v",    "attn_o", "ffn_norm",
                                                 "ffn_gate",  "ffn_up", "ffn_down"};
constexpr const char* kT5Bias = "enc.blk.0.attn_rel_b.weight";  // the other blocks use it as well
constexpr const char* kT5Embedding = "token_embd.weight";
constexpr std::uint32_t kT5ContextLength = 512;

const TypeRow* find_type(DType type) {
  const auto* found = std::find_if(std::begin(kTypes), std::end(kTypes),
                                   [&](const TypeRow& row) { return row.dtype == type; });
  return found == std::end(kTypes) ? nullptr : found;
}

// "a.10.b" after "a.9.b".
bool natural_less(const std::string& a, const std::string& b) {
  std::size_t i = 0, j = 0;
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  while (i < a.size() && j < b.size()) {
    if (is_digit(a[i]) && is_digit(b[j])) {
      const auto x = std::strtoull(a.c_str() + i, nullptr, 10);
      const auto y = std::strtoull(b.c_str() + j, nullptr, 10);
      if (x != y) return x < y;
      while (i < a.size() && is_digit(a[i])) ++i;
      while (j < b.size() && is_digit(b[j])) ++j;
    } else if (a[i] != b[j]) {
      return a[i] < b[j];
    } else {
      ++i;
      ++j;
    }
  }
  return a.size() - i < b.size() - j;
}

class Planner {
 public:
  Planner(const ConversionSource& source, DType type) : source_(source) { plan_.type = type; }

  ConversionPlan plan() {
    if (transformer()) {
      plan_transformer();
    } else {
      plan_t5();
    }
    for (const auto& [name, tensor] : source_.weights.tensors()) {
      if (used_.count(name) != 0 && has_place(name)) continue;
      throw fail(fmt::format("tensor {} is none of {}; take another copy of this model",
                             printable(name), transformer() ? "FLUX.1's" : "a T5 encoder's"));
    }
    for (const auto& [name, shape] : source_.shapes) take(name);
    for (PlannedTensor& tensor : plan_.tensors) {
      tensor.dtype = type_of(tensor);
      tensor.wide = own_type(tensor);
    }
    warn();
    add_metadata();
    return std::move(plan_);
  }

 private:
  bool transformer() const { return source_.component == Component::kTransformer; }
  // Names of blocks and embedders that the configuration does not have are FLUX.1's all the same.
  bool has_place(const std::string& name) const {
    return !transformer() || source_.shapes.count(name) != 0;
  }
  bool fp8() const { return plan_.type == DType::kF8E4M3; }

  Error fail(const std::string& what) const {
    return {ErrorKind::kBadInput, fmt::format("{}: {}", source_.weights.path().string(), what)};
  }

  const StoredTensor& take(const std::string& name) {
    const StoredTensor* tensor = source_.weights.find(name);
    if (tensor == nullptr) {
      throw fail(fmt::format("tensor {} is missing; the file is incomplete, fetch it again",
                             printable(name)));
    }
    used_.insert(name);
    return *tensor;
  }

  // Appends rows [begin, end) of a tensor that may itself lie in several stretches.
  void append_rows(std::vector<StoredRows>& to, const StoredTensor& tensor, std::int64_t begin,
                   std::int64_t end, const std::string& name) const {
    std::int64_t first = 0;
    for (const StoredRows& rows : tensor.rows) {
      const auto count = rows.values.shape.empty() ? 1 : rows.values.shape.front();
      const auto from = std::max(begin - first, std::int64_t{0});
      const auto until = std::min(end - first, count);
      if (from < until) {
        to.push_back(count == until - from ? rows : cut_rows(rows, from, until, name));
      }
      first += count;
    }
  }

  void add(const std::string& name, const std::vector<RowSource>& sources) {
    PlannedTensor result{
        .name = name, .dtype = DType::kF32, .wide = DType::kF32, .shape = {}, .rows = {}};
    for (const RowSource& part : sources) {
      const StoredTensor& tensor = take(part.name);
      auto shape = tensor.shape;
      const auto all = shape.empty() ? 1 : shape.front();
      if (all % part.of != 0) {
        throw fail(fmt::format("tensor {} has shape {}, whose first side is no multiple of {}",
                               printable(part.name), shape_to_string(shape), part.of));
      }
      append_rows(result.rows, tensor, all / part.of * part.begin, all / part.of * part.end,
                  part.name);
      if (!shape.empty()) shape.front() = all / part.of * (part.end - part.begin);
      if (result.shape.empty()) {
        result.shape = shape;
        continue;
      }
      if (shape.size() != result.shape.size() ||
          !std::equal(shape.begin() + 1, shape.end(), result.shape.begin() + 1)) {
        throw fail(fmt::format("tensor {} has shape {}, which does not go with {} as one tensor {}",
                               printable(part.name), shape_to_string(shape),
                               shape_to_string(result.shape), printable(name)));
      }
      result.shape.front() += shape.front();
    }
    if (result.shape.empty() || value_count(result.shape) == 0) {
      throw fail(fmt::format("tensor {} has shape {}, which no tensor of this model has",
                             printable(sources.front().name), shape_to_string(result.shape)));
    }
    plan_.tensors.push_back(std::move(result));
  }

  using BflNames = std::set<std::string, bool (*)(const std::string&, const std::string&)>;

  // What one block has, all of its kind have.
  void expect_equal_blocks(const BflNames& names, const std::string& kind) const {
    std::map<std::string, std::set<std::string>> blocks;  // by number
    std::set<std::string> all;
    for (const std::string& name : names) {
      if (!name.starts_with(kind)) continue;
      const auto dot = name.find('.', kind.size());
      blocks[name.substr(0, dot)].insert(name.substr(dot));
      all.insert(name.substr(dot));
    }
    for (const auto& [block, found] : blocks) {
      for (const std::string& wanted : all) {
        if (found.count(wanted) != 0) continue;
        throw fail(fmt::format("tensor {}{} is missing; the file is incomplete, fetch it again",
                               printable(block), printable(wanted)));
      }
    }
  }

  void plan_transformer() {
    BflNames names(natural_less);
    for (const auto& [name, tensor] : source_.weights.tensors()) {
      if (auto stored = transformer_bfl_name(name); !stored.empty()) names.insert(stored);
    }
    expect_equal_blocks(names, "double_blocks.");
    expect_equal_blocks(names, "single_blocks.");
    for (const std::string& name : names) add(name, transformer_sources(name));
  }

  void add_t5(const std::string& llama_name) {
    const auto ours = text_encoder_2_placements(llama_name).front().name;
    // ComfyUI's fp8 encoders have transformers' names.
    add(fp8() ? ours : llama_name, {{.name = ours}});
  }

  void plan_t5() {
    add_t5(kT5Embedding);
    for (std::int64_t i = 0; i < source_.t5.num_layers; ++i) {
      for (const char* module : kT5Block) add_t5(fmt::format("enc.blk.{}.{}.weight", i, module));
      if (i == 0) add_t5(kT5Bias);
    }
    add_t5("enc.output_norm.weight");
    // Some files repeat it in every block.
    for (const auto& [name, tensor] : source_.weights.tensors()) {
      if (name.ends_with("SelfAttention.relative_attention_bias.weight")) used_.insert(name);
    }
  }

  // The source's type, if it is one of these and all parts have it.
  DType own_type(const PlannedTensor& tensor) const {
    DType found = tensor.rows.front().values.dtype;
    for (const StoredRows& rows : tensor.rows) {
      // Packed values were made from 16-bit ones.
      const auto dtype = rows.packed ? DType::kBF16 : rows.values.dtype;
      if (dtype == DType::kF32 || dtype == DType::kF64) return DType::kF32;
      if (&rows == &tensor.rows.front()) found = dtype;
      if (found != dtype) found = DType::kBF16;
    }
    return found == DType::kF16 ? DType::kF16 : DType::kBF16;
  }

  bool is_precise(const std::string& name) const {
    if (!transformer()) return false;
    return std::any_of(std::begin(kPreciseTransformer), std::end(kPreciseTransformer),
                       [&](std::string_view front) { return name.starts_with(front); });
  }

  // `wanted`, or the next type whose blocks fit into rows of this length.
  DType fit(DType wanted, const PlannedTensor& tensor) {
    const auto row = tensor.shape.back();
    if (row % item_values(wanted) == 0) return wanted;
    auto smaller = wanted == DType::kQ4_K   ? DType::kQ5_0
                   : wanted == DType::kQ5_K ? DType::kQ5_1
                   : wanted == DType::kQ6_K ? DType::kQ8_0
                                            : own_type(tensor);
    if (row % item_values(smaller) != 0) smaller = own_type(tensor);
    auto& instead = fallbacks_[{wanted, smaller}];
    if (instead.empty()) instead = tensor.name;
    ++fallback_counts_[{wanted, smaller}];
    return smaller;
  }

  DType type_of(const PlannedTensor& tensor) {
    const bool matrix = tensor.shape.size() > 1;
    const bool small = value_count(tensor.shape) <= kSmallMatrix;
    if (fp8()) {
      const bool embedding = tensor.name == "shared.weight";
      const bool bias = tensor.name.ends_with("relative_attention_bias.weight");
      return matrix && !small && !embedding && !bias && !is_precise(tensor.name) ? DType::kF8E4M3
                                                                                 : DType::kBF16;
    }
    if (!matrix || small || tensor.name == kT5Bias) return DType::kF32;
    if (!is_block(plan_.type)) return plan_.type;
    if (is_precise(tensor.name)) return own_type(tensor);
    // A row of it is a whole token: errors in it reach every layer.
    if (tensor.name == kT5Embedding) return fit(DType::kQ8_0, tensor);
    return fit(plan_.type, tensor);
  }

  void warn() {
    if (!source_.packed_types.empty()) {
      plan_.warnings.push_back(fmt::format(
          "{} is quantised already ({}): errors are against what it holds, and come on top of its "
          "own; where there is the original, convert that",
          source_.weights.path().string(), fmt::join(source_.packed_types, ", ")));
    }
    for (const auto& [types, name] : fallbacks_) {
      const auto count = fallback_counts_[types];
      plan_.warnings.push_back(
          fmt::format("{} {} rows that are no multiple of {} values: {} instead of {} ({}{})",
                      count, count == 1 ? "tensor has" : "tensors have", item_values(types.first),
                      to_string(types.second), to_string(types.first), printable(name),
                      count == 1 ? "" : ", ..."));
    }
  }

  void add_metadata() {
    auto& gguf = plan_.gguf_metadata;
    gguf.emplace_back("general.architecture", std::string(transformer() ? "flux" : "t5encoder"));
    gguf.emplace_back("general.quantization_version", std::uint32_t{2});
    gguf.emplace_back("general.file_type", find_type(plan_.type)->file_type);
    if (!transformer()) add_t5_metadata();
    plan_.safetensors_metadata["format"] = "pt";
    if (!source_.config) return;
    const auto key = config_metadata_key(source_.component);
    gguf.emplace_back(key, *source_.config);
    plan_.safetensors_metadata[key] = *source_.config;
  }

  void add_t5_metadata() {
    const auto number = [&](const char* key, std::int64_t value) {
      plan_.gguf_metadata.emplace_back(std::string("t5encoder.") + key,
                                       static_cast<std::uint32_t>(value));
    };
    const T5Config& t5 = source_.t5;
    number("context_length", kT5ContextLength);
    number("embedding_length", t5.d_model);
    number("feed_forward_length", t5.d_ff);
    number("block_count", t5.num_layers);
    number("vocab_size", t5.vocab_size);
    number("attention.head_count", t5.num_heads);
    number("attention.key_length", t5.d_kv);
    number("attention.value_length", t5.d_kv);
    number("attention.relative_buckets_count", t5.relative_attention_num_buckets);
    const auto epsilon = static_cast<float>(t5.layer_norm_epsilon);
    plan_.gguf_metadata.emplace_back("t5encoder.attention.layer_norm_epsilon", epsilon);
    plan_.gguf_metadata.emplace_back("t5encoder.attention.layer_norm_rms_epsilon", epsilon);
  }

  using Types = std::pair<DType, DType>;  // wanted, taken

  const ConversionSource& source_;
  ConversionPlan plan_;
  std::set<std::string> used_;
  std::map<Types, std::string> fallbacks_;  // the first tensor
  std::map<Types, int> fallback_counts_;
};

}  // namespace

std::vector<std::string> conversion_type_names() {
  std::vector<std::string> names;
  for (const TypeRow& row : kTypes) names.emplace_back(row.name);
  return names;
}

std::optional<DType> conversion_type(const std::string& name) {
  for (const TypeRow& row : kTypes) {
    if (row.name == name) return row.dtype;
  }
  return std::nullopt;
}

std::string conversion_type_name(DType type) {
  const TypeRow* row = find_type(type);
  return row == nullptr ? to_string(type) : row->name;
}

std::string conversion_extension(DType type) {
  return type == DType::kF8E4M3 ? ".safetensors" : ".gguf";
}

ConversionPlan plan_conversion(const ConversionSource& source, DType type) {
  if (find_type(type) == nullptr) {
    throw Error(ErrorKind::kInternal, "no conversion to " + to_string(type));
  }
  return Planner(source, type).plan();
}

}  // namespace steadyflux
