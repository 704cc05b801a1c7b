#include "checkpoints/infer_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "base/utf8.h"
#include "quantization/dtype.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

// A component's shapes, and the errors about them.
class Shapes {
 public:
  Shapes(const TensorShapes& shapes, const std::string& where) : shapes_(shapes), where_(where) {}

  bool has(const std::string& name) const { return shapes_.count(name) != 0; }

  Error fail(const std::string& what) const {
    return Error(ErrorKind::kBadInput, fmt::format("{}: {}", where_, what));
  }
  Error missing(const std::string& name) const {
    return fail(fmt::format("tensor {} is missing; the file is incomplete, fetch it again",
                            printable(name)));
  }

  // One side of a tensor with `axes` axes.
  std::int64_t side(const std::string& name, std::size_t axis, std::size_t axes) const {
    const auto it = shapes_.find(name);
    if (it == shapes_.end()) throw missing(name);
    const auto& shape = it->second;
    const bool positive = std::all_of(shape.begin(), shape.end(), [](auto s) { return s > 0; });
    if (shape.size() != axes || !positive) {
      throw fail(fmt::format("tensor {} has shape {}, expected {} sides of 1 or more",
                             printable(name), shape_to_string(shape), axes));
    }
    return shape[axis];
  }
  std::int64_t rows(const std::string& name) const { return side(name, 0, 2); }
  std::int64_t columns(const std::string& name) const { return side(name, 1, 2); }

  // Blocks prefix0.* to prefixN.*; `first` is the first tensor of a block, to name if it is
  // missing.
  std::int64_t count(const std::string& prefix, const std::string& first) const {
    std::set<std::int64_t> numbers;
    for (auto it = shapes_.lower_bound(prefix);
         it != shapes_.end() && it->first.starts_with(prefix); ++it) {
      std::int64_t number = 0;
      std::size_t digits = prefix.size();
      for (; digits < it->first.size() && digits < prefix.size() + 5; ++digits) {
        const char c = it->first[digits];
        if (c < '0' || c > '9') break;
        number = 10 * number + (c - '0');
      }
      if (digits > prefix.size() && it->first.substr(digits, 1) == ".") numbers.insert(number);
    }
    std::int64_t expected = 0;
    for (const std::int64_t number : numbers) {
      if (number != expected) throw missing(fmt::format("{}{}.{}", prefix, expected, first));
      ++expected;
    }
    return expected;
  }

  // a / b, both named in the error if that is no integer.
  std::int64_t quotient(std::int64_t a, const std::string& a_name, std::int64_t b,
                        const std::string& b_name) const {
    if (a % b == 0) return a / b;
    throw fail(fmt::format("{} ({}) is no multiple of {} ({}); the file is damaged, or no FLUX.1",
                           a_name, a, b_name, b));
  }

 private:
  const TensorShapes& shapes_;
  const std::string& where_;
};

}  // namespace

FluxTransformerConfig infer_flux_transformer_config(const TensorShapes& all,
                                                    const std::string& where) {
  const Shapes shapes(all, where);
  FluxTransformerConfig config;
  config.num_layers = shapes.count("transformer_blocks.", "norm1.linear.weight");
  config.num_single_layers = shapes.count("single_transformer_blocks.", "norm.linear.weight");
  const bool has_double = config.num_layers > 0;
  if (!has_double && config.num_single_layers == 0) {
    throw shapes.missing("transformer_blocks.0.norm1.linear.weight");
  }
  const std::int64_t inner_dim = shapes.rows("x_embedder.weight");
  config.in_channels = shapes.columns("x_embedder.weight");
  config.out_channels = shapes.rows("proj_out.weight");
  config.joint_attention_dim = shapes.columns("context_embedder.weight");
  config.pooled_projection_dim = shapes.columns("time_text_embed.text_embedder.linear_1.weight");
  config.guidance_embeds = shapes.has("time_text_embed.guidance_embedder.linear_1.weight");
  const std::string norm = (has_double ? "transformer_blocks" : "single_transformer_blocks") +
                           std::string(".0.attn.norm_q.weight");
  config.attention_head_dim = shapes.side(norm, 0, 1);
  config.num_attention_heads = shapes.quotient(inner_dim, "the width of x_embedder.weight",
                                               config.attention_head_dim, "that of " + norm);
  if (config.attention_head_dim % 32 != 0) {
    throw shapes.fail(fmt::format(
        "its attention heads have {} values, not FLUX.1's 128, so tensors do not tell its position "
        "axes (axes_dims_rope); use this model as a folder with config.json",
        config.attention_head_dim));
  }
  const std::int64_t sixteenth = config.attention_head_dim / 16;
  config.axes_dims_rope = {2 * sixteenth, 7 * sixteenth, 7 * sixteenth};
  return config;
}

ClipTextConfig infer_clip_text_config(const TensorShapes& all, const std::string& where) {
  const Shapes shapes(all, where);
  ClipTextConfig config;
  config.vocab_size = shapes.rows("embeddings.token_embedding.weight");
  config.hidden_size = shapes.columns("embeddings.token_embedding.weight");
  config.max_position_embeddings = shapes.rows("embeddings.position_embedding.weight");
  config.num_hidden_layers = shapes.count("encoder.layers.", "self_attn.q_proj.weight");
  config.intermediate_size = shapes.rows("encoder.layers.0.mlp.fc1.weight");
  config.num_attention_heads = shapes.quotient(
      config.hidden_size, "the width of embeddings.token_embedding.weight", 64, "CLIP's head size");
  return config;
}

T5Config infer_t5_config(const TensorShapes& all, const std::string& where) {
  const Shapes shapes(all, where);
  const std::string bias =
      "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";  // [buckets, heads]
  T5Config config;
  config.vocab_size = shapes.rows("shared.weight");
  config.d_model = shapes.columns("shared.weight");
  config.num_layers = shapes.count("encoder.block.", "layer.0.SelfAttention.q.weight");
  config.relative_attention_num_buckets = shapes.rows(bias);
  config.num_heads = shapes.columns(bias);
  config.d_kv = shapes.quotient(shapes.rows("encoder.block.0.layer.0.SelfAttention.q.weight"),
                                "the rows of encoder.block.0.layer.0.SelfAttention.q.weight",
                                config.num_heads, "the columns of " + bias);
  config.d_ff = shapes.rows("encoder.block.0.layer.1.DenseReluDense.wi_0.weight");
  return config;
}

AutoencoderKlConfig infer_autoencoder_kl_config(const TensorShapes& all, const std::string& where) {
  const Shapes shapes(all, where);
  AutoencoderKlConfig config;
  config.latent_channels = shapes.side("decoder.conv_in.weight", 1, 4);
  config.out_channels = shapes.side("decoder.conv_out.weight", 0, 4);
  // Decoders may come alone; pictures have as many channels at both ends.
  config.in_channels = shapes.has("encoder.conv_in.weight")
                           ? shapes.side("encoder.conv_in.weight", 1, 4)
                           : config.out_channels;
  const std::int64_t blocks = shapes.count("decoder.up_blocks.", "resnets.0.conv1.weight");
  if (blocks == 0) throw shapes.missing("decoder.up_blocks.0.resnets.0.conv1.weight");
  config.block_out_channels.clear();
  std::int64_t common = 0;
  for (std::int64_t i = blocks - 1; i >= 0; --i) {  // the first up block is the last of the config
    const auto name = fmt::format("decoder.up_blocks.{}.resnets.0.conv1.weight", i);
    config.block_out_channels.push_back(shapes.side(name, 0, 4));
    common = std::gcd(common, config.block_out_channels.back());
  }
  const auto resnets = shapes.count("decoder.up_blocks.0.resnets.", "conv1.weight");
  if (resnets < 2) throw shapes.missing("decoder.up_blocks.0.resnets.1.conv1.weight");
  config.layers_per_block = resnets - 1;
  config.norm_num_groups = std::min<std::int64_t>(32, common);
  while (common % config.norm_num_groups != 0) --config.norm_num_groups;
  config.use_quant_conv = shapes.has("quant_conv.weight");
  config.use_post_quant_conv = shapes.has("post_quant_conv.weight");
  config.mid_block_add_attention = shapes.has("decoder.mid_block.attentions.0.to_q.weight");
  return config;
}

SiglipVisionConfig infer_siglip_vision_config(const TensorShapes& all, const std::string& where) {
  const Shapes shapes(all, where);
  const std::string patch = "embeddings.patch_embedding.weight";
  const std::string positions = "embeddings.position_embedding.weight";
  constexpr std::int64_t kWidthOfSo400m = 1152;
  SiglipVisionConfig config;
  config.hidden_size = shapes.side(patch, 0, 4);
  config.patch_size = shapes.side(patch, 3, 4);
  config.num_hidden_layers = shapes.count("encoder.layers.", "self_attn.q_proj.weight");
  config.intermediate_size = shapes.rows("encoder.layers.0.mlp.fc1.weight");
  config.num_attention_heads =
      config.hidden_size == kWidthOfSo400m
          ? 16
          : shapes.quotient(config.hidden_size, "the width of " + patch, 64, "a head's size");
  const auto patches = shapes.rows(positions);
  const auto side = std::llround(std::sqrt(static_cast<double>(patches)));
  if (side * side != patches) {
    throw shapes.fail(fmt::format("tensor {} has {} rows, expected those of a square of patches",
                                  positions, patches));
  }
  config.image_size = side == 27 && config.patch_size == 14 ? 384 : side * config.patch_size;
  return config;
}

ReduxImageEncoderConfig infer_redux_image_encoder_config(const TensorShapes& all,
                                                         const std::string& where) {
  const Shapes shapes(all, where);
  ReduxImageEncoderConfig config;
  config.redux_dim = shapes.columns("redux_up.weight");
  config.txt_in_features = shapes.rows("redux_down.weight");
  return config;
}

FlowMatchEulerConfig infer_flow_match_euler_config(const FluxTransformerConfig& transformer) {
  FlowMatchEulerConfig config;
  if (transformer.guidance_embeds) {
    config.shift = 3.0;  // as the published file has it; unused with dynamic shifting
    config.use_dynamic_shifting = true;
  }
  return config;
}

}  // namespace steadyflux
