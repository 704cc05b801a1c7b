// The readers of the five component configurations. The fallbacks are the defaults of the
// constructors in diffusers 0.42 and transformers 5.23, which is what a missing key means to them
// (they are not the values of FLUX.1, which the structs start with).
#include <fmt/format.h>

#include <numeric>

#include "config/config_reader.h"
#include "config/model_config.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kMaxWidth = 1'000'000;  // hidden sizes, vocabularies, channels
constexpr std::int64_t kMaxLayers = 1000;
constexpr std::int64_t kMaxHeads = 10'000;

// Sizes are multiplied with each other later on; this keeps every product far inside 64 bits.
std::int64_t width(const ConfigReader& config, const char* key, std::int64_t fallback) {
  return config.integer(key, fallback, 1, kMaxWidth);
}

void expect_blocks(const ConfigReader& config, const char* key, const std::string& name,
                   std::size_t count) {
  const nlohmann::json expected = std::vector<std::string>(count, name);
  const auto it = config.root().find(key);
  if (it == config.root().end() ? count != 1 : *it != expected) {
    throw config.fail(
        key, fmt::format("{} times \"{}\", one per entry of block_out_channels", count, name));
  }
}

// bitsandbytes' tensors say themselves how they are packed; other methods' do not.
void check_quantization(const ConfigReader& config) {
  if (!config.has("quantization_config")) return;
  const auto& quantization = config.root().at("quantization_config");
  const auto method =
      quantization.is_object() ? quantization.find("quant_method") : quantization.end();
  if (method != quantization.end() && *method == "bitsandbytes") return;
  throw config.fail("quantization_config", "none, or one with quant_method \"bitsandbytes\"");
}

}  // namespace

ClipTextConfig read_clip_text_config(const std::filesystem::path& file) {
  const ConfigReader config(file);
  ClipTextConfig clip;
  const auto model_type = config.text("model_type", "clip_text_model");
  if (model_type != "clip_text_model") throw config.fail("model_type", "\"clip_text_model\"");
  clip.vocab_size = width(config, "vocab_size", 49408);
  clip.hidden_size = width(config, "hidden_size", 512);
  clip.intermediate_size = width(config, "intermediate_size", 2048);
  clip.num_hidden_layers = config.integer("num_hidden_layers", 12, 1, kMaxLayers);
  clip.num_attention_heads = config.integer("num_attention_heads", 8, 1, kMaxHeads);
  clip.max_position_embeddings = config.integer("max_position_embeddings", 77, 2, 65536);
  clip.eos_token_id = config.integer("eos_token_id", 49407, 0, kMaxWidth);
  clip.layer_norm_eps = config.number("layer_norm_eps", 1e-5, 1e-20, 1);
  clip.hidden_act = config.choice("hidden_act", "quick_gelu", {"quick_gelu", "gelu"});
  if (clip.hidden_size % clip.num_attention_heads != 0) {
    throw config.fail("hidden_size", fmt::format("a multiple of num_attention_heads ({})",
                                                 clip.num_attention_heads));
  }
  return clip;
}

T5Config read_t5_config(const std::filesystem::path& file) {
  return read_t5_config(ConfigReader(file));
}

T5Config read_t5_config(const ConfigReader& config) {
  T5Config t5;
  if (config.text("model_type", "t5") != "t5") throw config.fail("model_type", "\"t5\"");
  t5.vocab_size = width(config, "vocab_size", 32128);
  t5.d_model = width(config, "d_model", 512);
  t5.d_kv = width(config, "d_kv", 64);
  t5.d_ff = width(config, "d_ff", 2048);
  t5.num_layers = config.integer("num_layers", 6, 1, kMaxLayers);
  t5.num_heads = config.integer("num_heads", 8, 1, kMaxHeads);
  t5.relative_attention_num_buckets =
      config.integer("relative_attention_num_buckets", 32, 4, 65536);
  t5.relative_attention_max_distance =
      config.integer("relative_attention_max_distance", 128, 2, kMaxWidth);
  t5.layer_norm_epsilon = config.number("layer_norm_epsilon", 1e-6, 1e-20, 1);
  // Half of the buckets serve each direction, half of those single distances; the rest are
  // logarithmic up to max_distance, which must lie beyond.
  if (t5.relative_attention_num_buckets % 4 != 0) {
    throw config.fail("relative_attention_num_buckets", "a multiple of 4");
  }
  if (t5.relative_attention_max_distance <= t5.relative_attention_num_buckets / 4) {
    throw config.fail("relative_attention_max_distance",
                      "more than a quarter of relative_attention_num_buckets");
  }
  // is_gated_act and dense_act_fn follow from feed_forward_proj unless the file has them itself.
  const std::string projection = config.text("feed_forward_proj", "relu");
  const bool gated = config.boolean("is_gated_act", projection.starts_with("gated-"));
  if (!gated) {
    throw config.fail(config.has("is_gated_act") ? "is_gated_act" : "feed_forward_proj",
                      "the gated tanh-gelu (feed_forward_proj \"gated-gelu\")");
  }
  if (config.has("dense_act_fn")) {
    t5.dense_act_fn = config.choice("dense_act_fn", "", {"gelu_new", "gelu_pytorch_tanh"});
  } else if (projection == "gated-gelu" || projection == "gated-gelu_new") {
    t5.dense_act_fn = "gelu_new";
  } else if (projection == "gated-gelu_pytorch_tanh") {
    t5.dense_act_fn = "gelu_pytorch_tanh";
  } else {
    throw config.fail("feed_forward_proj", "\"gated-gelu\"");
  }
  return t5;
}

FluxTransformerConfig read_flux_transformer_config(const std::filesystem::path& file) {
  return read_flux_transformer_config(ConfigReader(file));
}

FluxTransformerConfig read_flux_transformer_config(const ConfigReader& config) {
  config.expect_class("FluxTransformer2DModel");
  check_quantization(config);
  FluxTransformerConfig flux;
  flux.patch_size = config.integer("patch_size", 1, 1, 1);
  flux.in_channels = width(config, "in_channels", 64);
  flux.out_channels =
      config.has("out_channels") ? width(config, "out_channels", 0) : flux.in_channels;
  flux.num_layers = config.integer("num_layers", 19, 0, kMaxLayers);
  flux.num_single_layers = config.integer("num_single_layers", 38, 0, kMaxLayers);
  flux.attention_head_dim = config.integer("attention_head_dim", 128, 2, kMaxHeads);
  flux.num_attention_heads = config.integer("num_attention_heads", 24, 1, kMaxHeads);
  flux.joint_attention_dim = width(config, "joint_attention_dim", 4096);
  flux.pooled_projection_dim = width(config, "pooled_projection_dim", 768);
  flux.guidance_embeds = config.boolean("guidance_embeds", false);
  flux.axes_dims_rope = config.integers("axes_dims_rope", {16, 56, 56}, 3, 2, kMaxHeads);
  if (flux.num_layers + flux.num_single_layers < 1) {
    throw config.fail("num_layers", "at least one block in num_layers and num_single_layers");
  }
  bool axes_ok = flux.axes_dims_rope.size() == 3;
  for (const std::int64_t axis : flux.axes_dims_rope) axes_ok = axes_ok && axis % 2 == 0;
  const auto sum =
      std::accumulate(flux.axes_dims_rope.begin(), flux.axes_dims_rope.end(), std::int64_t{0});
  if (!axes_ok || sum != flux.attention_head_dim) {
    throw config.fail("axes_dims_rope",
                      fmt::format("3 even integers whose sum is attention_head_dim ({})",
                                  flux.attention_head_dim));
  }
  return flux;
}

AutoencoderKlConfig read_autoencoder_kl_config(const std::filesystem::path& file) {
  const ConfigReader config(file);
  config.expect_class("AutoencoderKL");
  config.refuse("latents_mean");
  config.refuse("latents_std");
  AutoencoderKlConfig vae;
  vae.in_channels = config.integer("in_channels", 3, 3, 3);
  vae.out_channels = config.integer("out_channels", 3, 3, 3);
  vae.latent_channels = width(config, "latent_channels", 4);
  vae.block_out_channels = config.integers("block_out_channels", {64}, 8, 1, kMaxWidth);
  vae.layers_per_block = config.integer("layers_per_block", 1, 1, kMaxLayers);
  vae.norm_num_groups = config.integer("norm_num_groups", 32, 1, kMaxWidth);
  vae.scaling_factor = config.number("scaling_factor", 0.18215, 1e-6, 1e6);
  vae.shift_factor = config.has("shift_factor") ? config.number("shift_factor", 0, -1e6, 1e6) : 0.0;
  vae.use_quant_conv = config.boolean("use_quant_conv", true);
  vae.use_post_quant_conv = config.boolean("use_post_quant_conv", true);
  vae.mid_block_add_attention = config.boolean("mid_block_add_attention", true);
  config.choice("act_fn", "silu", {"silu"});
  for (const std::int64_t channels : vae.block_out_channels) {
    if (channels % vae.norm_num_groups != 0) {
      throw config.fail("block_out_channels",
                        fmt::format("multiples of norm_num_groups ({})", vae.norm_num_groups));
    }
  }
  expect_blocks(config, "down_block_types", "DownEncoderBlock2D", vae.block_out_channels.size());
  expect_blocks(config, "up_block_types", "UpDecoderBlock2D", vae.block_out_channels.size());
  return vae;
}

SiglipVisionConfig read_siglip_vision_config(const std::filesystem::path& file) {
  const ConfigReader whole(file);
  // A whole SigLIP has two halves.
  const bool is_half = whole.has("vision_config") && whole.root().at("vision_config").is_object();
  const ConfigReader config =
      is_half ? ConfigReader(whole.root().at("vision_config"), file) : whole;
  const auto model_type = config.text("model_type", "siglip_vision_model");
  if (model_type != "siglip_vision_model") {
    throw config.fail("model_type", "\"siglip_vision_model\"");
  }
  SiglipVisionConfig siglip;
  config.integer("num_channels", 3, 3, 3);
  siglip.hidden_size = width(config, "hidden_size", 768);
  siglip.intermediate_size = width(config, "intermediate_size", 3072);
  siglip.num_hidden_layers = config.integer("num_hidden_layers", 12, 1, kMaxLayers);
  siglip.num_attention_heads = config.integer("num_attention_heads", 12, 1, kMaxHeads);
  siglip.image_size = config.integer("image_size", 224, 1, 4096);
  siglip.patch_size = config.integer("patch_size", 16, 1, siglip.image_size);
  siglip.layer_norm_eps = config.number("layer_norm_eps", 1e-6, 1e-20, 1);
  config.choice("hidden_act", "gelu_pytorch_tanh", {"gelu_pytorch_tanh"});
  if (siglip.hidden_size % siglip.num_attention_heads != 0) {
    throw config.fail("hidden_size", fmt::format("a multiple of num_attention_heads ({})",
                                                 siglip.num_attention_heads));
  }
  return siglip;
}

ReduxImageEncoderConfig read_redux_image_encoder_config(const std::filesystem::path& file) {
  const ConfigReader config(file);
  config.expect_class("ReduxImageEncoder");
  ReduxImageEncoderConfig redux;
  redux.redux_dim = width(config, "redux_dim", 1152);
  redux.txt_in_features = width(config, "txt_in_features", 4096);
  return redux;
}

void check_siglip_image_processor(const std::filesystem::path& file,
                                  const SiglipVisionConfig& encoder) {
  const ConfigReader config(file);
  constexpr std::int64_t kBicubic = 3;  // Pillow's number
  constexpr double kTolerance = 1e-6;
  config.integer("resample", kBicubic, kBicubic, kBicubic);
  for (const char* step : {"do_resize", "do_rescale", "do_normalize"}) {
    if (!config.boolean(step, true)) throw config.fail(step, "true");
  }
  config.number("rescale_factor", 1.0 / 255, 1.0 / 255 - kTolerance, 1.0 / 255 + kTolerance);
  for (const char* key : {"image_mean", "image_std"}) {
    const nlohmann::json expected = {0.5, 0.5, 0.5};
    if (config.has(key) && config.root().at(key) != expected)
      throw config.fail(key, "[0.5, 0.5, 0.5]");
  }
  const nlohmann::json size = {{"height", encoder.image_size}, {"width", encoder.image_size}};
  if (config.has("size") && config.root().at("size") != size) {
    throw config.fail(
        "size", fmt::format("{0} x {0}, the image_size of the image encoder", encoder.image_size));
  }
}

FlowMatchEulerConfig read_flow_match_euler_config(const std::filesystem::path& file) {
  const ConfigReader config(file);
  config.expect_class("FlowMatchEulerDiscreteScheduler");
  for (const char* flag : {"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas",
                           "stochastic_sampling", "invert_sigmas", "use_flow_sigmas"}) {
    config.refuse(flag);
  }
  FlowMatchEulerConfig flow;
  flow.num_train_timesteps = config.integer("num_train_timesteps", 1000, 1, kMaxWidth);
  flow.shift = config.number("shift", 1.0, 1e-3, 1e3);
  flow.use_dynamic_shifting = config.boolean("use_dynamic_shifting", false);
  flow.base_shift = config.number("base_shift", 0.5, -10, 10);
  flow.max_shift = config.number("max_shift", 1.15, -10, 10);
  flow.base_image_seq_len = config.integer("base_image_seq_len", 256, 1, kMaxWidth);
  flow.max_image_seq_len = config.integer("max_image_seq_len", 4096, 1, kMaxWidth);
  if (config.has("shift_terminal"))
    flow.shift_terminal = config.number("shift_terminal", 0, 0, 0.99);
  flow.time_shift_type = config.choice("time_shift_type", "exponential", {"exponential", "linear"});
  if (flow.max_image_seq_len == flow.base_image_seq_len) {
    throw config.fail("max_image_seq_len", "a value other than that of base_image_seq_len");
  }
  return flow;
}

}  // namespace steadyflux
