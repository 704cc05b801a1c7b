// The configuration files of a diffusers FLUX pipeline as plain values. Field names are those of
// the JSON files. Reading validates: types, ranges, and what this program cannot do (another class
// name, another activation) is refused with a message that names file, key and value. The values
// the structs start with are FLUX.1's; a key missing in a file means what it means to diffusers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "config/flux_variant.h"

namespace steadyflux {

// text_encoder/config.json (CLIPTextModel)
struct ClipTextConfig {
  std::int64_t vocab_size = 49408;
  std::int64_t hidden_size = 768;
  std::int64_t intermediate_size = 3072;
  std::int64_t num_hidden_layers = 12;
  std::int64_t num_attention_heads = 12;
  std::int64_t max_position_embeddings = 77;
  std::int64_t eos_token_id = 2;  // 2 selects the legacy rule: position of the largest id
  double layer_norm_eps = 1e-5;
  std::string hidden_act = "quick_gelu";  // or "gelu"
};

// text_encoder_2/config.json (T5EncoderModel)
struct T5Config {
  std::int64_t vocab_size = 32128;
  std::int64_t d_model = 4096;
  std::int64_t d_kv = 64;
  std::int64_t d_ff = 10240;
  std::int64_t num_layers = 24;
  std::int64_t num_heads = 64;
  std::int64_t relative_attention_num_buckets = 32;
  std::int64_t relative_attention_max_distance = 128;
  double layer_norm_epsilon = 1e-6;
  // Both are the tanh approximation; "gelu_new" rounds after every operation in half precision.
  std::string dense_act_fn = "gelu_pytorch_tanh";  // or "gelu_new"
};

// transformer/config.json (FluxTransformer2DModel)
struct FluxTransformerConfig {
  std::int64_t patch_size = 1;
  std::int64_t in_channels = 64;
  std::int64_t out_channels = 64;  // null in the file: equal to in_channels
  std::int64_t num_layers = 19;
  std::int64_t num_single_layers = 38;
  std::int64_t attention_head_dim = 128;
  std::int64_t num_attention_heads = 24;
  std::int64_t joint_attention_dim = 4096;
  std::int64_t pooled_projection_dim = 768;
  bool guidance_embeds = false;
  std::vector<std::int64_t> axes_dims_rope = {16, 56, 56};
  // What in_channels is in the model's files, where a Control LoRA makes it more; else 0.
  std::int64_t widened_from = 0;

  std::int64_t inner_dim() const { return attention_head_dim * num_attention_heads; }
  // Of a packed token, out_channels are the picture's own latents. So many stand beside them, of
  // pictures that the model is shown: 0 but for Fill, Depth and Canny.
  std::int64_t condition_channels() const { return in_channels - out_channels; }
};

// vae/config.json (AutoencoderKL)
struct AutoencoderKlConfig {
  std::int64_t in_channels = 3;
  std::int64_t out_channels = 3;
  std::int64_t latent_channels = 16;
  std::vector<std::int64_t> block_out_channels = {128, 256, 512, 512};
  std::int64_t layers_per_block = 2;
  std::int64_t norm_num_groups = 32;
  double scaling_factor = 0.3611;
  double shift_factor = 0.1159;
  bool use_quant_conv = false;
  bool use_post_quant_conv = false;
  bool mid_block_add_attention = true;

  // Pixels per latent pixel, along one side: 8 for FLUX.1.
  std::int64_t scale_factor() const { return std::int64_t{1} << (block_out_channels.size() - 1); }
};

// image_encoder/config.json (SiglipVisionModel), of FLUX.1-Redux
struct SiglipVisionConfig {
  std::int64_t hidden_size = 1152;
  std::int64_t intermediate_size = 4304;
  std::int64_t num_hidden_layers = 27;
  std::int64_t num_attention_heads = 16;
  std::int64_t image_size = 384;  // pixels along a side
  std::int64_t patch_size = 14;   // likewise; pixels beyond the last whole patch do not count
  double layer_norm_eps = 1e-6;

  std::int64_t num_patches() const { return (image_size / patch_size) * (image_size / patch_size); }
};

// image_embedder/config.json (ReduxImageEncoder)
struct ReduxImageEncoderConfig {
  std::int64_t redux_dim = 1152;
  std::int64_t txt_in_features = 4096;

  std::int64_t inner_dim() const { return 3 * txt_in_features; }
};

// FLUX.1-Redux: makes tokens of a picture that stand behind those of the prompt.
struct ReduxConfig {
  SiglipVisionConfig image_encoder;
  ReduxImageEncoderConfig image_embedder;

  std::int64_t num_tokens() const { return image_encoder.num_patches(); }
};

// scheduler/scheduler_config.json (FlowMatchEulerDiscreteScheduler)
struct FlowMatchEulerConfig {
  std::int64_t num_train_timesteps = 1000;
  double shift = 1.0;
  bool use_dynamic_shifting = false;
  double base_shift = 0.5;
  double max_shift = 1.15;
  std::int64_t base_image_seq_len = 256;
  std::int64_t max_image_seq_len = 4096;
  std::optional<double> shift_terminal;
  std::string time_shift_type = "exponential";  // or "linear"
};

// What a model asks for when the command line says nothing (steadyflux.json in the model folder,
// or the defaults of the FLUX.1 variant).
struct GenerationDefaults {
  std::int64_t width = 1024;
  std::int64_t height = 1024;
  std::int64_t num_inference_steps = 4;
  double guidance_scale = 3.5;
  std::int64_t max_sequence_length = 512;
};

ClipTextConfig read_clip_text_config(const std::filesystem::path& file);
T5Config read_t5_config(const std::filesystem::path& file);
FluxTransformerConfig read_flux_transformer_config(const std::filesystem::path& file);
// The same from JSON that is elsewhere than in a file of its own.
class ConfigReader;
T5Config read_t5_config(const ConfigReader& config);
FluxTransformerConfig read_flux_transformer_config(const ConfigReader& config);
SiglipVisionConfig read_siglip_vision_config(const std::filesystem::path& file);
ReduxImageEncoderConfig read_redux_image_encoder_config(const std::filesystem::path& file);
// feature_extractor/preprocessor_config.json (SiglipImageProcessor): throws unless pictures are to
// be prepared as this program does it.
void check_siglip_image_processor(const std::filesystem::path& file,
                                  const SiglipVisionConfig& encoder);
AutoencoderKlConfig read_autoencoder_kl_config(const std::filesystem::path& file);
FlowMatchEulerConfig read_flow_match_euler_config(const std::filesystem::path& file);

// A diffusers FLUX pipeline on disk, its configuration read and checked against each other
// (T5 d_model == joint_attention_dim, CLIP hidden_size == pooled_projection_dim,
// 4 * latent_channels == out_channels, sum(axes_dims_rope) == attention_head_dim, ...).
struct FluxModel {
  // Where the parts lie: a component folder of the diffusers layout, or a file, which may hold
  // several of them. Tokenizers are folders.
  struct Paths {
    std::filesystem::path text_encoder, text_encoder_2, transformer, vae;
    std::filesystem::path tokenizer, tokenizer_2;
    std::filesystem::path image_encoder = {}, image_embedder = {};  // of Redux; empty: none
  };

  std::filesystem::path root;  // the folder or file that stands for the model
  std::string name;            // its name
  Paths paths;
  ClipTextConfig text_encoder;
  T5Config text_encoder_2;
  FluxTransformerConfig transformer;
  AutoencoderKlConfig vae;
  FlowMatchEulerConfig scheduler;
  std::optional<ReduxConfig> redux = {};  // where one was named
  GenerationDefaults defaults;
  bool is_kontext = false;  // the folder says so; the tensors are those of dev

  FluxVariant variant() const {
    return is_kontext ? FluxVariant::kKontext
                      : variant_of_channels(transformer.in_channels, transformer.out_channels,
                                            transformer.guidance_embeds);
  }

  // A diffusers folder. With `encode_only` neither VAE nor scheduler is looked for; the VAE's path
  // stays empty. Throws Error{kBadInput} naming the file and what to do.
  static FluxModel open(const std::filesystem::path& root, bool encode_only = false);

  // A VAE as the transformer needs one, where there is none.
  void assume_vae() { vae.latent_channels = transformer.out_channels / 4; }
};

// Throws Error{kBadInput} if the parts do not belong together.
void check_parts(const FluxModel& model);

// What a model of this variant asks for, with what steadyflux.json in `folder` says, if it is
// there.
GenerationDefaults read_generation_defaults(const std::filesystem::path& folder,
                                            const FluxModel& model);

// Where Hugging Face's tools keep what they downloaded: $HF_HUB_CACHE, $HF_HOME/hub,
// $XDG_CACHE_HOME/huggingface/hub, ~/.cache/huggingface/hub (the order of huggingface_hub).
std::filesystem::path hugging_face_hub_cache();

// What `-m` says -> a folder or file: an existing one, or a hub id
// ("black-forest-labs/FLUX.1-schnell"), perhaps with a file of the repository behind it
// ("city96/FLUX.1-schnell-gguf/flux1-schnell-Q8_0.gguf"), in the local Hugging Face cache
// (HF_HUB_CACHE, HF_HOME, ~/.cache/huggingface/hub; refs/main, snapshots). nullopt ->
// STEADYFLUX_MODEL, else the bundled model, looked for in `model_dirs`.
std::filesystem::path resolve_model(const std::optional<std::string>& spec,
                                    const std::vector<std::filesystem::path>& model_dirs);
// The same for what `--redux` says, which has no default.
std::filesystem::path resolve_redux(const std::string& spec);

}  // namespace steadyflux
