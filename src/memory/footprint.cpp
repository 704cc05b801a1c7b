#include "memory/footprint.h"

#include <algorithm>

#include "config/row_chunks.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kTensorAlignment = 512;  // of tensors in a unit's buffer
constexpr std::int64_t kTimeEmbedDim = 256;
constexpr std::int64_t kClipLength = 77;

// Adds up the tensors of a unit.
class UnitSum {
 public:
  UnitSum(std::string name, std::int64_t element, std::int64_t stored)
      : element_(element), stored_(stored) {
    unit_.name = std::move(name);
  }
  UnitSum& tensor(std::int64_t count) { return tensor(count, element_); }
  UnitSum& tensor(std::int64_t count, std::int64_t element) {
    unit_.bytes += (count * element + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment;
    unit_.file_bytes += count * stored_;
    return *this;
  }
  UnitSum& linear(std::int64_t in, std::int64_t out, bool bias = true) {
    tensor(in * out);
    return bias ? tensor(out) : *this;
  }
  // NOLINTNEXTLINE(google-explicit-constructor): the sum is the unit.
  operator UnitFootprint() const { return unit_; }

 private:
  std::int64_t element_;
  std::int64_t stored_;
  UnitFootprint unit_;
};

void set_fixed(WeightsFootprint& weights, const UnitFootprint& fixed) {
  weights.fixed_bytes = fixed.bytes;
  weights.fixed_file_bytes = fixed.file_bytes;
}

std::int64_t row_chunk(std::int64_t rows, std::int64_t most) {
  return std::min(rows, row_chunk_size(rows, most));
}

}  // namespace

std::int64_t element_size(const std::string& dtype) {
  if (dtype == "fp64") return 8;
  return dtype == "fp32" ? 4 : 2;
}

WeightsFootprint clip_weights(const ClipTextConfig& config, const std::string& dtype,
                              std::int64_t stored) {
  const auto d = config.hidden_size, e = element_size(dtype);
  WeightsFootprint weights;
  weights.component = "text_encoder";
  weights.table_file_bytes = config.vocab_size * d * stored;
  set_fixed(weights,
            UnitSum("", e, stored).tensor(config.max_position_embeddings * d).tensor(d).tensor(d));
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) {
    UnitSum unit("encoder.layers." + std::to_string(i), e, stored);
    for (int norm = 0; norm < 2; ++norm) unit.tensor(d).tensor(d);
    for (int projection = 0; projection < 4; ++projection) unit.linear(d, d);
    unit.linear(d, config.intermediate_size).linear(config.intermediate_size, d);
    weights.units.push_back(unit);
  }
  return weights;
}

WeightsFootprint t5_weights(const T5Config& config, const std::string& dtype, std::int64_t stored) {
  const auto d = config.d_model, inner = config.num_heads * config.d_kv, e = element_size(dtype);
  WeightsFootprint weights;
  weights.component = "text_encoder_2";
  weights.table_file_bytes = config.vocab_size * d * stored;
  set_fixed(weights, UnitSum("", e, stored)
                         .tensor(config.relative_attention_num_buckets * config.num_heads)
                         .tensor(d));
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    const auto name = "encoder.block." + std::to_string(i);
    weights.units.push_back(UnitSum(name + ".layer.0", e, stored)
                                .linear(d, inner, false)
                                .linear(d, inner, false)
                                .linear(d, inner, false)
                                .linear(inner, d, false)
                                .tensor(d));
    const auto dense = name + ".layer.1.DenseReluDense";
    weights.units.push_back(UnitSum(dense + ".wi", e, stored)
                                .linear(d, config.d_ff, false)
                                .linear(d, config.d_ff, false)
                                .tensor(d));
    // wo stays fp32 when the rest is fp16.
    weights.units.push_back(
        UnitSum(dense + ".wo", e, stored).tensor(config.d_ff * d, dtype == "fp16" ? 4 : e));
  }
  return weights;
}

WeightsFootprint transformer_weights(const FluxTransformerConfig& config, const std::string& dtype,
                                     std::int64_t stored) {
  const auto dim = config.inner_dim(), head = config.attention_head_dim, e = element_size(dtype);
  WeightsFootprint weights;
  weights.component = "transformer";
  set_fixed(weights, UnitSum("", e, stored)
                         .linear(config.joint_attention_dim, dim)
                         .linear(config.in_channels, dim)
                         .linear(dim, config.patch_size * config.patch_size * config.out_channels));
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    const auto name = "transformer_blocks." + std::to_string(i);
    UnitSum attn(name + ".attn", e, stored);
    for (int projection = 0; projection < 8; ++projection) attn.linear(dim, dim);
    for (int norm = 0; norm < 4; ++norm) attn.tensor(head);
    weights.units.push_back(attn);
    for (const char* part : {".ff", ".ff_context"}) {
      weights.units.push_back(
          UnitSum(name + part, e, stored).linear(dim, 4 * dim).linear(4 * dim, dim));
    }
  }
  for (std::int64_t i = 0; i < config.num_single_layers; ++i) {
    const auto name = "single_transformer_blocks." + std::to_string(i);
    UnitSum attn(name + ".attn", e, stored);
    for (int projection = 0; projection < 3; ++projection) attn.linear(dim, dim);
    weights.units.push_back(attn.tensor(head).tensor(head));
    weights.units.push_back(
        UnitSum(name + ".mlp", e, stored).linear(dim, 4 * dim).linear(5 * dim, dim));
  }
  return weights;
}

WeightsFootprint modulation_weights(const FluxTransformerConfig& config, const std::string& dtype,
                                    std::int64_t stored) {
  const auto dim = config.inner_dim(), e = element_size(dtype);
  WeightsFootprint weights;
  weights.component = "modulation";
  UnitSum fixed("", e, stored);
  fixed.linear(kTimeEmbedDim, dim).linear(dim, dim);
  if (config.guidance_embeds) fixed.linear(kTimeEmbedDim, dim).linear(dim, dim);
  fixed.linear(config.pooled_projection_dim, dim).linear(dim, dim);
  set_fixed(weights, fixed);
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    const auto name = "transformer_blocks." + std::to_string(i);
    for (const char* part : {".norm1", ".norm1_context"}) {
      weights.units.push_back(UnitSum(name + part, e, stored).linear(dim, 6 * dim));
    }
  }
  for (std::int64_t i = 0; i < config.num_single_layers; ++i) {
    weights.units.push_back(
        UnitSum("single_transformer_blocks." + std::to_string(i) + ".norm", e, stored)
            .linear(dim, 3 * dim));
  }
  weights.units.push_back(UnitSum("norm_out", e, stored).linear(dim, 2 * dim));
  return weights;
}

std::int64_t clip_activations(const ClipTextConfig& config, const std::string& dtype,
                              std::int64_t group) {
  // Hidden states, what a layer makes of them, and the MLP with its activation in three copies; the
  // other prompts have their hidden states only.
  return kClipLength * ((5 + group) * config.hidden_size + 3 * config.intermediate_size) *
         element_size(dtype);
}

std::int64_t t5_activations(const T5Config& config, const std::string& dtype,
                            std::int64_t max_sequence_length, std::int64_t group) {
  const auto length = max_sequence_length, e = element_size(dtype);
  const auto hidden = length * config.d_model * e;
  const auto inner = length * config.num_heads * config.d_kv * e;
  const auto wide = length * config.d_ff * e;
  const auto bias = length * length * config.num_heads * e;
  const auto indices = length * length * std::int64_t{8};
  // Bucket indices, and the table's rows before and after they are laid out by heads.
  const auto making_bias = 2 * bias + 2 * indices + hidden;
  const auto norm = 2 * length * config.d_model * 4;  // fp32
  const auto attending = hidden + std::max(norm + hidden, hidden + 4 * inner + hidden);
  const auto feeding = 3 * hidden + 4 * wide + (config.dense_act_fn == "gelu_new" ? 2 * wide : 0);
  // The other prompts wait with their hidden states, and between wi and wo with the wide ones.
  const auto others = group - 1;
  return others * hidden +
         std::max({making_bias, bias + attending, bias + feeding + others * wide});
}

std::int64_t transformer_activations(const FluxTransformerConfig& config, const std::string& dtype,
                                     std::int64_t text_len, std::int64_t image_len, int workers,
                                     std::int64_t group) {
  const auto e = element_size(dtype), dim = config.inner_dim(), seq_len = text_len + image_len;
  const auto row = dim * e;
  const auto joint = seq_len * row;
  const auto chunk = row_chunk(seq_len, kGemmRows) * row;
  const auto double_chunk = row_chunk(std::max(text_len, image_len), kGemmRows) * row;
  // q or k, normalised in fp32: the values, their squares, the product.
  // On a device then rotated in fp32: values, products, and the rotated values before.
  const auto norm = std::min(seq_len, kElementRows) * dim * ((workers > 0 ? 12 : 16) + e);
  // Packed keys and values of one head, for each thread.
  const auto workspace = workers * seq_len * config.attention_head_dim * 2 * e;
  const auto projecting = 3 * joint + 2 * std::max(chunk, double_chunk) + norm;
  const auto attending = 4 * joint + workspace;
  const auto feeding = std::max(joint + 10 * chunk, 6 * double_chunk);
  const auto rotary = 2 * seq_len * config.attention_head_dim * 4;  // image_rotary_emb, fp32
  const auto kept = joint + 3 * image_len * config.in_channels * e;
  // In single blocks the other pictures of a group wait with what attention gave for them.
  return rotary + group * kept + (group - 1) * joint + std::max({projecting, attending, feeding});
}

std::int64_t modulation_activations(const FluxTransformerConfig& config, const std::string& dtype,
                                    std::int64_t rows) {
  const auto computed = modulation_gemm_rows(rows);
  const auto chunk = row_chunk(computed, kMostModulationRows);
  return (computed + chunk * (3 + 6)) * config.inner_dim() * element_size(dtype);
}

std::int64_t modulation_row_bytes(const FluxTransformerConfig& config, const std::string& dtype) {
  return config.inner_dim() * (12 * config.num_layers + 3 * config.num_single_layers + 2) *
         element_size(dtype);
}

}  // namespace steadyflux
