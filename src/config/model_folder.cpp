// A whole model folder: is it a FLUX pipeline, and do its parts fit together? Everything that can
// be known from the small files is said here, before anybody spends minutes on loading weights.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "base/utf8.h"
#include "config/config_reader.h"
#include "config/model_config.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

// The class of the pipeline, one of those that steadyflux runs.
std::string pipeline_class(const fs::path& index) {
  const ConfigReader config(index);
  std::string name = config.text("_class_name", "");
  for (const char* known :
       {"FluxPipeline", "FluxKontextPipeline", "FluxFillPipeline", "FluxControlPipeline"}) {
    if (name == known) return name;
  }
  if (name.empty()) throw config.fail("_class_name", "\"FluxPipeline\"");
  const bool is_redux = name == "FluxPriorReduxPipeline";
  throw Error(ErrorKind::kBadInput,
              fmt::format("{}: this is a {}, steadyflux runs FluxPipeline, FluxKontextPipeline, "
                          "FluxFillPipeline and FluxControlPipeline{}",
                          index.string(), printable(name),
                          is_redux ? "; name it with --redux beside one of these" : ""));
}

// Two numbers in two files that have to be equal.
void expect_equal(const fs::path& root, const char* key, std::int64_t value, const char* other_key,
                  std::int64_t other) {
  if (value == other) return;
  throw Error(ErrorKind::kBadInput,
              fmt::format("{}: {} is {}, but {} is {}; the parts of this model do not belong "
                          "together",
                          root.string(), key, value, other_key, other));
}

// What goes in beside the latents: nothing, a control picture's, or a masked picture's with all
// pixels of its mask.
void check_in_channels(const FluxModel& model) {
  const auto& config = model.transformer;
  const auto factor = model.vae.scale_factor();
  const auto with_mask = 2 * config.out_channels + 4 * factor * factor;
  const auto variant = model.variant();
  if (variant == FluxVariant::kFill) {
    expect_equal(model.root, "transformer in_channels", config.in_channels,
                 "the number of channels with a masked picture and a mask", with_mask);
  } else if (variant != FluxVariant::kControl) {
    expect_equal(model.root, "transformer in_channels", config.in_channels,
                 "4 * vae latent_channels", 4 * model.vae.latent_channels);
  }
}

// Depth and Canny have the same tensors: of the two only names tell which it is. A hub id's folder
// is named by a hash, two levels below the repository's.
bool is_named_canny(const fs::path& root) {
  std::error_code error;
  const auto normal = fs::absolute(root, error).lexically_normal();
  const auto own = normal.has_filename() ? normal : normal.parent_path();
  const bool in_cache = own.parent_path().filename() == "snapshots";
  auto name = (in_cache ? own.parent_path().parent_path() : own).filename().string();
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name.find("canny") != std::string::npos;
}

// As the model cards and diffusers' pipelines have them.
GenerationDefaults defaults_of(const FluxModel& model) {
  GenerationDefaults defaults;
  switch (model.variant()) {
    case FluxVariant::kSchnell:
      break;
    case FluxVariant::kDev:
      defaults.num_inference_steps = 28;
      break;
    case FluxVariant::kKontext:
      defaults.num_inference_steps = 28;
      defaults.guidance_scale = 2.5;
      break;
    case FluxVariant::kFill:
      defaults.num_inference_steps = 50;
      defaults.guidance_scale = 30;
      break;
    case FluxVariant::kControl: {
      const bool canny = is_named_canny(model.root);
      defaults.num_inference_steps = canny ? 50 : 30;
      defaults.guidance_scale = canny ? 30 : 10;
      break;
    }
  }
  return defaults;
}

}  // namespace

void check_parts(const FluxModel& model) {
  const auto& root = model.root;
  expect_equal(root, "text_encoder_2 d_model", model.text_encoder_2.d_model,
               "transformer joint_attention_dim", model.transformer.joint_attention_dim);
  expect_equal(root, "text_encoder hidden_size", model.text_encoder.hidden_size,
               "transformer pooled_projection_dim", model.transformer.pooled_projection_dim);
  expect_equal(root, "transformer out_channels", model.transformer.out_channels,
               "4 * vae latent_channels", 4 * model.vae.latent_channels);
  check_in_channels(model);
}

GenerationDefaults read_generation_defaults(const fs::path& folder, const FluxModel& model) {
  GenerationDefaults defaults = defaults_of(model);
  const fs::path file = folder / "steadyflux.json";
  std::error_code error;
  if (!fs::exists(file, error)) return defaults;
  const ConfigReader config(file);
  defaults.width = config.integer("width", defaults.width, 16, 65536);
  defaults.height = config.integer("height", defaults.height, 16, 65536);
  defaults.num_inference_steps =
      config.integer("num_inference_steps", defaults.num_inference_steps, 1, 10'000);
  defaults.guidance_scale = config.number("guidance_scale", defaults.guidance_scale, 0, 1000);
  defaults.max_sequence_length =
      config.integer("max_sequence_length", defaults.max_sequence_length, 1, 512);
  for (const char* key : {"width", "height"}) {
    if (config.integer(key, 16, 16, 65536) % 16 != 0) throw config.fail(key, "a multiple of 16");
  }
  return defaults;
}

FluxModel FluxModel::open(const fs::path& root, bool encode_only) {
  std::error_code error;
  if (!fs::is_directory(root, error)) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: not a folder; give a FLUX.1 model in the diffusers layout",
                            root.string()));
  }
  if (!fs::exists(root / "model_index.json", error)) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: no model_index.json and no single-file checkpoint of FLUX.1 in "
                            "it",
                            root.string()));
  }
  FluxModel model;
  model.is_kontext = pipeline_class(root / "model_index.json") == "FluxKontextPipeline";
  model.root = root;
  model.paths = {.text_encoder = root / "text_encoder",
                 .text_encoder_2 = root / "text_encoder_2",
                 .transformer = root / "transformer",
                 .vae = encode_only ? fs::path() : root / "vae",
                 .tokenizer = root / "tokenizer",
                 .tokenizer_2 = root / "tokenizer_2"};
  // "models/emoji/" ends in an empty file name.
  const fs::path normal = fs::absolute(root, error).lexically_normal();
  model.name = (normal.has_filename() ? normal : normal.parent_path()).filename().string();
  model.text_encoder = read_clip_text_config(root / "text_encoder" / "config.json");
  model.text_encoder_2 = read_t5_config(root / "text_encoder_2" / "config.json");
  model.transformer = read_flux_transformer_config(root / "transformer" / "config.json");
  if (encode_only) {
    model.assume_vae();
  } else {
    model.vae = read_autoencoder_kl_config(root / "vae" / "config.json");
    model.scheduler = read_flow_match_euler_config(root / "scheduler" / "scheduler_config.json");
  }
  check_parts(model);
  model.defaults = read_generation_defaults(root, model);
  return model;
}

}  // namespace steadyflux
