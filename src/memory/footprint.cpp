#include "memory/footprint.h"

#include <algorithm>

#include "base/bytes.h"
#include "config/flash_attention.h"
#include "config/int8_linear.h"
#include "config/row_chunks.h"
#include "config/transfer_sizes.h"
#include "config/widened.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kTimeEmbedDim = 256;
constexpr std::int64_t kClipLength = 77;

// For each thread keys and values of one head. In fp32 libtorch's kernel takes as much.
std::int64_t attention_workspace(std::int64_t seq_len, std::int64_t head_dim, int workers,
                                 std::int64_t element_size) {
  return workers * flash_attention_bytes(seq_len, head_dim) * (element_size / 2);
}

// Adds up the tensors of a component, unit by unit.
class WeightsSum {
 public:
  WeightsSum(std::string component, const std::string& dtype, const StoredWeights& stored)
      : element_(element_size(dtype)),
        stored_element_(element_size(stored.dtype)),
        stored_(stored) {
    weights_.component = std::move(component);
  }

  // What follows is in a unit of this name, and begins with `prefix`.
  WeightsSum& unit(const std::string& name, const std::string& prefix) {
    weights_.units.push_back({name});
    prefix_ = prefix;
    return *this;
  }
  WeightsSum& unit(const std::string& name) { return unit(name, name + "."); }
  WeightsSum& prefix(const std::string& prefix) {
    prefix_ = prefix;
    return *this;
  }

  // Of CLIP and SigLIP (nn/encoder_layer.h).
  void encoder_layers(std::int64_t count, std::int64_t d, std::int64_t intermediate_size) {
    for (std::int64_t i = 0; i < count; ++i) {
      unit("encoder.layers." + std::to_string(i)).norm("layer_norm1", d).norm("layer_norm2", d);
      for (const char* projection : {"q_proj", "k_proj", "v_proj", "out_proj"}) {
        linear(std::string("self_attn.") + projection, d, d);
      }
      linear("mlp.fc1", d, intermediate_size).linear("mlp.fc2", intermediate_size, d);
    }
  }

  WeightsSum& tensor(const std::string& name, std::int64_t count) {
    return add(name, count, element_, false);
  }
  WeightsSum& linear(const std::string& name, std::int64_t in, std::int64_t out, bool bias = true) {
    add(name + ".weight", in * out, element_, true);
    return bias ? tensor(name + ".bias", out) : *this;
  }
  // One that is computed with values of another size.
  WeightsSum& linear_of(std::int64_t element, const std::string& name, std::int64_t in,
                        std::int64_t out) {
    return add(name + ".weight", in * out, element, true);
  }
  WeightsSum& table(const std::string& name, std::int64_t count) {
    const auto* size = find(name);
    weights_.table_file_bytes += size != nullptr ? size->file_bytes : count * stored_element_;
    return *this;
  }
  WeightsSum& norm(const std::string& name, std::int64_t dim) {
    return tensor(name + ".weight", dim).tensor(name + ".bias", dim);
  }

  WeightsFootprint done() { return std::move(weights_); }

 private:
  const StoredSize* find(const std::string& name) const {
    if (!stored_.sizes) return nullptr;
    const auto it = stored_.sizes->find(prefix_ + name);
    return it == stored_.sizes->end() ? nullptr : &it->second;
  }

  WeightsSum& add(const std::string& name, std::int64_t count, std::int64_t element, bool matrix) {
    const auto* size = find(name);
    const bool packed = matrix && size != nullptr && size->packed_bytes > 0;
    const auto bytes = rounded_up(packed ? size->packed_bytes : count * element, kTensorAlignment);
    const auto file_bytes = size != nullptr ? size->file_bytes : count * stored_element_;
    if (packed) weights_.unpacked_bytes = std::max(weights_.unpacked_bytes, count * element);
    const bool fixed = weights_.units.empty();
    (fixed ? weights_.fixed_bytes : weights_.units.back().bytes) += bytes;
    (fixed ? weights_.fixed_file_bytes : weights_.units.back().file_bytes) += file_bytes;
    return *this;
  }

  std::int64_t element_;
  std::int64_t stored_element_;
  const StoredWeights& stored_;
  std::string prefix_;
  WeightsFootprint weights_;
};

std::int64_t row_chunk(std::int64_t rows, std::int64_t most) {
  return std::min(rows, row_chunk_size(rows, most));
}

}  // namespace

std::int64_t element_size(const std::string& dtype) {
  if (dtype == "fp64") return 8;
  return dtype == "fp32" ? 4 : 2;
}

WeightsFootprint clip_weights(const ClipTextConfig& config, const std::string& dtype,
                              const StoredWeights& stored) {
  const auto d = config.hidden_size;
  WeightsSum sum("text_encoder", dtype, stored);
  sum.table("embeddings.token_embedding.weight", config.vocab_size * d)
      .tensor("embeddings.position_embedding.weight", config.max_position_embeddings * d)
      .norm("final_layer_norm", d);
  sum.encoder_layers(config.num_hidden_layers, d, config.intermediate_size);
  return sum.done();
}

WeightsFootprint t5_weights(const T5Config& config, const std::string& dtype,
                            const StoredWeights& stored) {
  const auto d = config.d_model, inner = config.num_heads * config.d_kv;
  // wo stays fp32 when the rest is fp16.
  const auto wo_element = dtype == "fp16" ? 4 : element_size(dtype);
  WeightsSum sum("text_encoder_2", dtype, stored);
  sum.table("shared.weight", config.vocab_size * d)
      .tensor("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
              config.relative_attention_num_buckets * config.num_heads)
      .tensor("encoder.final_layer_norm.weight", d);
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    const auto block = "encoder.block." + std::to_string(i), dense = block + ".layer.1.";
    sum.unit(block + ".layer.0")
        .linear("SelfAttention.q", d, inner, false)
        .linear("SelfAttention.k", d, inner, false)
        .linear("SelfAttention.v", d, inner, false)
        .linear("SelfAttention.o", inner, d, false)
        .tensor("layer_norm.weight", d);
    sum.unit(dense + "DenseReluDense.wi", dense)
        .linear("DenseReluDense.wi_0", d, config.d_ff, false)
        .linear("DenseReluDense.wi_1", d, config.d_ff, false)
        .tensor("layer_norm.weight", d);
    sum.unit(dense + "DenseReluDense.wo", dense)
        .linear_of(wo_element, "DenseReluDense.wo", config.d_ff, d);
  }
  return sum.done();
}

WeightsFootprint image_encoder_weights(const SiglipVisionConfig& config, const std::string& dtype,
                                       const StoredWeights& stored) {
  const auto d = config.hidden_size;
  WeightsSum sum("image_encoder", dtype, stored);
  sum.prefix("embeddings.")
      .tensor("patch_embedding.weight", d * 3 * config.patch_size * config.patch_size)
      .tensor("patch_embedding.bias", d)
      .tensor("position_embedding.weight", config.num_patches() * d);
  sum.prefix("").norm("post_layernorm", d);
  sum.encoder_layers(config.num_hidden_layers, d, config.intermediate_size);
  return sum.done();
}

WeightsFootprint image_embedder_weights(const ReduxImageEncoderConfig& config,
                                        const std::string& dtype, const StoredWeights& stored) {
  WeightsSum sum("image_embedder", dtype, stored);
  sum.unit("redux_up", "").linear("redux_up", config.redux_dim, config.inner_dim());
  sum.unit("redux_down", "").linear("redux_down", config.inner_dim(), config.txt_in_features);
  return sum.done();
}

WeightsFootprint transformer_weights(const FluxTransformerConfig& config, const std::string& dtype,
                                     const StoredWeights& stored) {
  const auto dim = config.inner_dim(), head = config.attention_head_dim;
  WeightsSum sum("transformer", dtype, stored);
  sum.linear("context_embedder", config.joint_attention_dim, dim);
  if (config.widened_from > 0) {  // plain, however it is stored
    sum.tensor("x_embedder.weight", config.in_channels * dim).tensor("x_embedder.bias", dim);
  } else {
    sum.linear("x_embedder", config.in_channels, dim);
  }
  sum.linear("proj_out", dim, config.patch_size * config.patch_size * config.out_channels);
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    const auto block = "transformer_blocks." + std::to_string(i);
    sum.unit(block + ".attn");
    for (const char* projection : {"to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj",
                                   "add_v_proj", "to_add_out"}) {
      sum.linear(projection, dim, dim);
    }
    for (const char* norm : {"norm_q", "norm_k", "norm_added_q", "norm_added_k"}) {
      sum.tensor(std::string(norm) + ".weight", head);
    }
    for (const char* part : {".ff", ".ff_context"}) {
      sum.unit(block + part).linear("net.0.proj", dim, 4 * dim).linear("net.2", 4 * dim, dim);
    }
  }
  for (std::int64_t i = 0; i < config.num_single_layers; ++i) {
    const auto block = "single_transformer_blocks." + std::to_string(i);
    sum.unit(block + ".attn");
    for (const char* projection : {"to_q", "to_k", "to_v"}) sum.linear(projection, dim, dim);
    sum.tensor("norm_q.weight", head).tensor("norm_k.weight", head);
    sum.unit(block + ".mlp", block + ".")
        .linear("proj_mlp", dim, 4 * dim)
        .linear("proj_out", 5 * dim, dim);
  }
  return sum.done();
}

std::size_t first_block_units(const FluxTransformerConfig& config) {
  return config.num_layers > 0 ? 3 : 2;  // attention and two MLPs, or one
}

WeightsFootprint modulation_weights(const FluxTransformerConfig& config, const std::string& dtype,
                                    const StoredWeights& stored) {
  const auto dim = config.inner_dim();
  WeightsSum sum("modulation", dtype, stored);
  const auto embedder = [&](const std::string& name, std::int64_t in) {
    sum.prefix("time_text_embed." + name + ".").linear("linear_1", in, dim);
    sum.linear("linear_2", dim, dim);
  };
  embedder("timestep_embedder", kTimeEmbedDim);
  if (config.guidance_embeds) embedder("guidance_embedder", kTimeEmbedDim);
  embedder("text_embedder", config.pooled_projection_dim);
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    const auto block = "transformer_blocks." + std::to_string(i);
    for (const char* part : {".norm1", ".norm1_context"}) {
      sum.unit(block + part).linear("linear", dim, 6 * dim);
    }
  }
  for (std::int64_t i = 0; i < config.num_single_layers; ++i) {
    sum.unit("single_transformer_blocks." + std::to_string(i) + ".norm")
        .linear("linear", dim, 3 * dim);
  }
  sum.unit("norm_out").linear("linear", dim, 2 * dim);
  return sum.done();
}

std::int64_t clip_activations(const ClipTextConfig& config, const std::string& dtype,
                              std::int64_t group) {
  // Hidden states, what a layer makes of them, and the MLP with its activation in three copies; the
  // other prompts have their hidden states only.
  return kClipLength * ((5 + group) * config.hidden_size + 3 * config.intermediate_size) *
         element_size(dtype);
}

std::int64_t image_encoder_activations(const SiglipVisionConfig& config, const std::string& dtype,
                                       std::int64_t images) {
  const auto tokens = config.num_patches(), d = config.hidden_size;
  // Like CLIP's; the activation is one operation here. Pixels go in, fp32 ones before they are
  // converted.
  const auto pixels = 3 * config.image_size * config.image_size;
  return tokens * ((5 + images) * d + 2 * config.intermediate_size) * element_size(dtype) +
         pixels * (4 + element_size(dtype));
}

std::int64_t image_embedder_activations(const ReduxConfig& config, const std::string& dtype,
                                        std::int64_t images) {
  const auto& embedder = config.image_embedder;
  // The other pictures wait between the two layers.
  const auto values =
      embedder.redux_dim + (1 + images) * embedder.inner_dim() + embedder.txt_in_features;
  return config.num_tokens() * values * element_size(dtype);
}

std::int64_t t5_activations(const T5Config& config, const std::string& dtype,
                            std::int64_t max_sequence_length, int workers, std::int64_t group,
                            bool one_pass) {
  const auto length = max_sequence_length, e = element_size(dtype);
  const auto hidden = length * config.d_model * e;
  const auto inner = length * config.num_heads * config.d_kv * e;
  const auto wide = length * config.d_ff * e;
  const auto bias = length * length * config.num_heads * e;
  const auto making_bias = bias + hidden;
  const auto norm = one_pass ? 0 : 2 * length * config.d_model * 4;  // fp32
  const auto workspace = attention_workspace(length, config.d_kv, workers, e);
  const auto attending = hidden + std::max(norm + hidden, hidden + 4 * inner + hidden + workspace);
  const auto activated = 4 * wide + (config.dense_act_fn == "gelu_new" ? 2 * wide : 0);
  const auto feeding =
      one_pass ? std::max(2 * hidden + 2 * wide, 3 * hidden + wide) : 3 * hidden + activated;
  // The other prompts wait with their hidden states, and between wi and wo with the wide ones.
  const auto others = group - 1;
  return others * hidden +
         std::max({making_bias, bias + attending, bias + feeding + others * wide});
}

std::int64_t rotary_bytes(const FluxTransformerConfig& config, std::int64_t seq_len) {
  return 2 * seq_len * config.attention_head_dim * 4;  // fp32
}

ProductBytes product_bytes(const std::string& compute, const std::string& dtype, int workers) {
  if (compute == "int8" && workers > 0) {
    return [workers](std::int64_t rows, std::int64_t in, std::int64_t) {
      return int8_linear_bytes(rows, in, workers);
    };
  }
  if (compute == "int8" || compute == "fp8") {
    const std::int64_t sum_bytes = compute == "int8" ? 8 : 2;  // in 32 bits and fp32; in bf16
    return [sum_bytes](std::int64_t rows, std::int64_t in, std::int64_t out) {
      return eight_bit_device_bytes(rows, in, out, sum_bytes);
    };
  }
  if (compute == "bf16" && dtype != "bf16") {
    return [workers](std::int64_t rows, std::int64_t in, std::int64_t out) {
      // A CPU may have to widen what was rounded.
      const auto widened = workers > 0 ? widened_linear_bytes(rows, in) : 0;
      return 2 * (rows * (in + out) + in * out) + widened;
    };
  }
  return [](std::int64_t, std::int64_t, std::int64_t) { return std::int64_t{0}; };
}

std::int64_t transformer_activations(const FluxTransformerConfig& config, const std::string& dtype,
                                     std::int64_t text_len, std::int64_t image_len, int workers,
                                     std::int64_t group, const ProductBytes& of_product) {
  const auto e = element_size(dtype), dim = config.inner_dim(), seq_len = text_len + image_len;
  const auto row = dim * e;
  const auto joint = seq_len * row;
  const auto chunk = row_chunk(seq_len, kGemmRows) * row;
  const auto double_chunk = row_chunk(std::max(text_len, image_len), kGemmRows) * row;
  // q or k, normalised in fp32: the values, their squares, the product.
  // On a device then rotated in fp32: values, products, and the rotated values before.
  const auto norm = std::min(seq_len, kElementRows) * dim * ((workers > 0 ? 12 : 16) + e);
  const auto workspace = attention_workspace(seq_len, config.attention_head_dim, workers, e);
  const auto rows = row_chunk(seq_len, kGemmRows);
  const auto double_rows = row_chunk(std::max(text_len, image_len), kGemmRows);
  const auto projecting = 3 * joint + 2 * std::max(chunk, double_chunk) +
                          std::max(norm, of_product(std::max(rows, double_rows), dim, dim));
  const auto attending = 4 * joint + workspace;
  // proj_mlp beside the room for what proj_out takes, then that; in double blocks net.0 and net.2.
  const auto feeding = std::max({joint + 10 * chunk + of_product(rows, dim, 4 * dim),
                                 joint + 6 * chunk + of_product(rows, 5 * dim, dim),
                                 6 * double_chunk + of_product(double_rows, dim, 4 * dim),
                                 6 * double_chunk + of_product(double_rows, 4 * dim, dim)});
  const auto rotary = rotary_bytes(config, seq_len);  // image_rotary_emb
  const auto kept = joint + image_len * (config.in_channels + 2 * config.out_channels) * e;
  // In single blocks the other pictures of a group wait with what attention gave for them.
  return rotary + group * kept + (group - 1) * joint + std::max({projecting, attending, feeding});
}

std::int64_t modulation_activations(const FluxTransformerConfig& config, const std::string& dtype,
                                    std::int64_t rows) {
  const auto computed = modulation_gemm_rows(rows);
  const auto chunk = row_chunk(computed, kMostModulationRows);
  return (computed + chunk * (3 + 6)) * config.inner_dim() * element_size(dtype);
}

std::int64_t clip_widened_bytes(const ClipTextConfig& config) {
  return widened_linear_bytes(kClipLength, config.intermediate_size);
}

std::int64_t t5_widened_bytes(const T5Config& config, std::int64_t max_sequence_length) {
  const auto length = max_sequence_length;
  const auto mask = widened_heads(config.num_heads, length, length, config.d_kv) * length * length;
  return std::max(
      widened_linear_bytes(length, std::max(config.d_ff, config.d_model)),
      widened_attention_bytes(config.num_heads, length, length, config.d_kv) + 4 * mask);
}

std::int64_t image_encoder_widened_bytes(const SiglipVisionConfig& config) {
  const auto tokens = config.num_patches(), pixels = 3 * config.patch_size * config.patch_size;
  const auto embedding =
      4 * (3 * config.image_size * config.image_size + config.hidden_size * (pixels + tokens));
  return std::max(
      {embedding,
       widened_linear_bytes(tokens, std::max(config.intermediate_size, config.hidden_size)),
       widened_attention_bytes(config.num_attention_heads, tokens, tokens,
                               config.hidden_size / config.num_attention_heads)});
}

std::int64_t image_embedder_widened_bytes(const ReduxConfig& config) {
  const auto& embedder = config.image_embedder;
  return widened_linear_bytes(config.num_tokens(),
                              std::max(embedder.redux_dim, embedder.inner_dim()));
}

std::int64_t transformer_widened_bytes(const FluxTransformerConfig& config,
                                       const std::string& compute, std::int64_t text_len,
                                       std::int64_t image_len) {
  const auto seq_len = text_len + image_len;
  const auto attention = widened_attention_bytes(config.num_attention_heads, seq_len, seq_len,
                                                 config.attention_head_dim);
  // Of attention and MLP side by side, that single blocks project; in int8 of the first blocks'
  // MLPs.
  const auto widest = (compute == "int8" ? 4 : 5) * config.inner_dim();
  return std::max(widened_linear_bytes(row_chunk(seq_len, kGemmRows), widest), attention);
}

std::int64_t modulation_widened_bytes(const FluxTransformerConfig& config, std::int64_t rows) {
  const auto chunk = row_chunk(modulation_gemm_rows(rows), kMostModulationRows);
  return widened_linear_bytes(chunk, config.inner_dim());
}

std::int64_t modulation_row_bytes(const FluxTransformerConfig& config, const std::string& dtype) {
  return config.inner_dim() * (12 * config.num_layers + 3 * config.num_single_layers + 2) *
         element_size(dtype);
}

}  // namespace steadyflux
