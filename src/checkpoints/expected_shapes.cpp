#include "checkpoints/expected_shapes.h"

#include <fmt/format.h>

#include "base/utf8.h"
#include "quantization/dtype.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kTimeEmbedDim = 256;  // sinusoids, in every FLUX.1

void add_linear(TensorShapes& shapes, const std::string& name, std::int64_t in, std::int64_t out) {
  shapes[name + ".weight"] = {out, in};
  shapes[name + ".bias"] = {out};
}

void add_double_block(TensorShapes& shapes, const std::string& block, std::int64_t dim,
                      std::int64_t head_dim) {
  for (const char* norm : {"norm1", "norm1_context"}) {
    add_linear(shapes, block + norm + ".linear", dim, 6 * dim);
  }
  for (const char* name : {"to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj",
                           "add_v_proj", "to_add_out"}) {
    add_linear(shapes, block + "attn." + name, dim, dim);
  }
  for (const char* name : {"norm_q", "norm_k", "norm_added_q", "norm_added_k"}) {
    shapes[block + "attn." + name + ".weight"] = {head_dim};
  }
  for (const char* name : {"ff", "ff_context"}) {
    add_linear(shapes, block + name + ".net.0.proj", dim, 4 * dim);
    add_linear(shapes, block + name + ".net.2", 4 * dim, dim);
  }
}

void add_single_block(TensorShapes& shapes, const std::string& block, std::int64_t dim,
                      std::int64_t head_dim) {
  add_linear(shapes, block + "norm.linear", dim, 3 * dim);
  for (const char* name : {"to_q", "to_k", "to_v"}) {
    add_linear(shapes, block + "attn." + name, dim, dim);
  }
  for (const char* name : {"norm_q", "norm_k"}) {
    shapes[block + "attn." + name + ".weight"] = {head_dim};
  }
  add_linear(shapes, block + "proj_mlp", dim, 4 * dim);
  add_linear(shapes, block + "proj_out", 5 * dim, dim);
}

void add_embedder(TensorShapes& shapes, const std::string& name, std::int64_t in,
                  std::int64_t dim) {
  add_linear(shapes, "time_text_embed." + name + ".linear_1", in, dim);
  add_linear(shapes, "time_text_embed." + name + ".linear_2", dim, dim);
}

}  // namespace

TensorShapes expected_shapes(const FluxTransformerConfig& config) {
  const auto dim = config.inner_dim();
  TensorShapes shapes;
  add_linear(shapes, "x_embedder", config.in_channels, dim);
  add_linear(shapes, "context_embedder", config.joint_attention_dim, dim);
  add_embedder(shapes, "timestep_embedder", kTimeEmbedDim, dim);
  if (config.guidance_embeds) add_embedder(shapes, "guidance_embedder", kTimeEmbedDim, dim);
  add_embedder(shapes, "text_embedder", config.pooled_projection_dim, dim);
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    add_double_block(shapes, fmt::format("transformer_blocks.{}.", i), dim,
                     config.attention_head_dim);
  }
  for (std::int64_t i = 0; i < config.num_single_layers; ++i) {
    add_single_block(shapes, fmt::format("single_transformer_blocks.{}.", i), dim,
                     config.attention_head_dim);
  }
  add_linear(shapes, "norm_out.linear", dim, 2 * dim);
  add_linear(shapes, "proj_out", dim, config.patch_size * config.patch_size * config.out_channels);
  return shapes;
}

TensorShapes expected_shapes(const T5Config& config) {
  const auto d = config.d_model, inner = config.num_heads * config.d_kv;
  TensorShapes shapes;
  shapes["shared.weight"] = {config.vocab_size, d};
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    const auto block = fmt::format("encoder.block.{}.layer.", i);
    for (const char* name : {"q", "k", "v"}) {
      shapes[block + "0.SelfAttention." + name + ".weight"] = {inner, d};
    }
    shapes[block + "0.SelfAttention.o.weight"] = {d, inner};
    shapes[block + "0.layer_norm.weight"] = {d};
    shapes[block + "1.DenseReluDense.wi_0.weight"] = {config.d_ff, d};
    shapes[block + "1.DenseReluDense.wi_1.weight"] = {config.d_ff, d};
    shapes[block + "1.DenseReluDense.wo.weight"] = {d, config.d_ff};
    shapes[block + "1.layer_norm.weight"] = {d};
  }
  shapes["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = {
      config.relative_attention_num_buckets, config.num_heads};
  shapes["encoder.final_layer_norm.weight"] = {d};
  return shapes;
}

void check_shapes(const TensorShapes& found, const TensorShapes& expected,
                  const std::string& where) {
  for (const auto& [name, shape] : found) {
    const auto it = expected.find(name);
    if (it == expected.end() || it->second == shape) continue;
    throw Error(
        ErrorKind::kBadInput,
        fmt::format("{}: tensor {} has shape {}, expected {} by its configuration; the "
                    "file is damaged, or not of this model: fetch it again",
                    where, printable(name), shape_to_string(shape), shape_to_string(it->second)));
  }
}

}  // namespace steadyflux
