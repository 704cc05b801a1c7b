#include "pipeline/phases.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "nn/load.h"
#include "pipeline/latents.h"
#include "scheduler/flow_match_euler.h"
#include "text_encoder/clip_text_model.h"
#include "text_encoder/t5_encoder.h"
#include "tokenizer/clip_tokenizer.h"
#include "tokenizer/t5_tokenizer.h"
#include "transformer/flux_transformer.h"
#include "vae/autoencoder_kl.h"
#include "weights/checkpoint.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kClipLength = 77;

void throw_if_interrupted(Observer& observer) {
  if (const int signal = observer.interrupt_signal()) throw Interrupted(signal);
}

// How the weights of a component are named in its folder.
struct WeightNames {
  const char* folder;
  const char* optional_prefix;
  std::vector<std::string> ignored_prefixes;

  LoadOptions options() const {
    LoadOptions options;
    options.optional_prefix = optional_prefix;
    options.ignored_prefixes = ignored_prefixes;
    return options;
  }
};

WeightNames clip_names() {
  return {"text_encoder",
          "text_model.",
          {"text_model.embeddings.position_ids", "embeddings.position_ids", "text_projection.",
           "logit_scale", "vision_model.", "visual_projection."}};
}
WeightNames t5_names() { return {"text_encoder_2", "", {"decoder.", "lm_head."}}; }
WeightNames transformer_names() { return {"transformer", "", {}}; }
WeightNames vae_names() { return {"vae", "", {"encoder.", "quant_conv."}}; }

// Binds the weights of a component to the slots of `model`.
template <typename Model>
void load_component(const PhaseContext& context, Model& model, const WeightNames& names) {
  const auto start = std::chrono::steady_clock::now();
  LoadOptions options = names.options();
  options.dtype = context.dtype;
  options.device = context.device;
  options.progress = [&](std::int64_t, std::int64_t) { throw_if_interrupted(context.observer); };
  load_slots(Checkpoint::open(context.model.root / names.folder), model.slots(), options);
  context.load_seconds +=
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

template <typename Model>
void check_component(const ModelFolder& folder, Model model, const WeightNames& names) {
  check_slots(Checkpoint::open(folder.root / names.folder), model.slots(), names.options());
}

// NaN and infinity spread to the whole picture, which would be black: better to say where they
// began.
void expect_finite(const PhaseContext& context, const at::Tensor& values,
                   const WeightNames& names) {
  if (at::isfinite(values).all().item<bool>()) return;
  const bool fp16 = context.dtype == at::kHalf;
  throw Error(ErrorKind::kBadInput,
              fmt::format("{}: computes values that are not finite numbers; {}",
                          (context.model.root / names.folder).string(),
                          fp16 ? "fp16 may be too narrow for this model: try --dtype bf16 or fp32"
                               : "its weights are damaged, fetch them again"));
}

at::Tensor ids_tensor(const TokenizedPrompt& tokens, c10::Device device) {
  return at::tensor(tokens.ids, at::kLong).unsqueeze(0).to(device);  // [1, length]
}

void warn_if_truncated(Observer& observer, const TokenizedPrompt& tokens, const char* encoder,
                       std::int64_t length, const char* advice) {
  if (tokens.lost_text.empty()) return;
  observer.warning(fmt::format("{} reads only the first {} tokens of the prompt; lost: \"{}\"{}",
                               encoder, length, tokens.lost_text, advice));
}

at::Tensor encode_clip(const PhaseContext& context, const std::string& prompt) {
  const auto& config = context.model.text_encoder;
  const auto length = std::min(kClipLength, config.max_position_embeddings);
  const auto tokens = load_clip_tokenizer(context.model.root / "tokenizer", config.vocab_size)
                          ->tokenize(prompt, length);
  warn_if_truncated(context.observer, tokens, "CLIP", length, "");
  ClipTextModel text_encoder(config);
  load_component(context, text_encoder, clip_names());
  const auto pooled = text_encoder.forward(ids_tensor(tokens, context.device));
  expect_finite(context, pooled, clip_names());
  return pooled;
}

at::Tensor encode_t5(const PhaseContext& context, const std::string& prompt, std::int64_t length) {
  const auto& config = context.model.text_encoder_2;
  const auto tokens = load_t5_tokenizer(context.model.root / "tokenizer_2", config.vocab_size)
                          ->tokenize(prompt, length);
  warn_if_truncated(context.observer, tokens, "T5", length,
                    length < 512 ? "; raise --max-sequence-length to keep more" : "");
  T5Encoder text_encoder_2(config);
  load_component(context, text_encoder_2, t5_names());
  const auto embeds =
      text_encoder_2.forward(ids_tensor(tokens, context.device), [&](std::int64_t blocks) {
        context.observer.phase_progress(1 + blocks);
        throw_if_interrupted(context.observer);
      });
  expect_finite(context, embeds, t5_names());
  return embeds;
}

}  // namespace

void check_weights(const ModelFolder& model) {
  check_component(model, ClipTextModel(model.text_encoder), clip_names());
  check_component(model, T5Encoder(model.text_encoder_2), t5_names());
  check_component(model, FluxTransformer(model.transformer), transformer_names());
  check_component(model, AutoencoderKlDecoder(model.vae), vae_names());
}

std::int64_t encode_steps(const ModelFolder& model) { return 1 + model.text_encoder_2.num_layers; }

PromptEmbeddings encode_prompt(const PhaseContext& context, const std::string& prompt,
                               std::int64_t max_sequence_length) {
  PromptEmbeddings embeddings;
  embeddings.pooled_prompt_embeds = encode_clip(context, prompt);
  context.observer.phase_progress(1);
  throw_if_interrupted(context.observer);
  embeddings.prompt_embeds = encode_t5(context, prompt, max_sequence_length);
  return embeddings;
}

std::vector<at::Tensor> denoise(const PhaseContext& context, const Request& request,
                                const PromptEmbeddings& embeddings) {
  const auto& model = context.model;
  const auto factor = model.vae.scale_factor();
  const auto height = request.height / factor, width = request.width / factor;  // latent pixels
  const auto image_seq_len = (height / 2) * (width / 2);
  const auto schedule = make_schedule(model.scheduler, request.num_inference_steps, image_seq_len);

  FluxTransformer transformer(model.transformer);
  load_component(context, transformer, transformer_names());
  const auto image_rotary_emb = make_rotary_embedding(
      make_position_ids(request.max_sequence_length, height / 2, width / 2).to(context.device),
      model.transformer.axes_dims_rope);
  at::Tensor guidance;
  if (model.transformer.guidance_embeds) {
    guidance = at::full({1}, request.guidance_scale,
                        at::TensorOptions().dtype(at::kFloat).device(context.device));
  }

  const auto num_channels_latents = model.transformer.in_channels / 4;
  std::vector<at::Tensor> results;
  for (std::int64_t i = 0; i < request.num_images; ++i) {
    results.push_back(prepare_latents(num_channels_latents, height, width,
                                      request.seed + static_cast<std::uint64_t>(i), context.dtype)
                          .to(context.device));
  }

  std::int64_t done = 0;
  for (std::size_t step = 0; step < schedule.timesteps.size(); ++step) {
    const auto timestep = at::full({1}, schedule.timesteps[step],
                                   at::TensorOptions().dtype(at::kFloat).device(context.device))
                              .to(context.dtype) /
                          1000;
    // The same for every picture: it depends on prompt and time only.
    const auto modulations =
        transformer.modulations(timestep, guidance, embeddings.pooled_prompt_embeds);
    const float dt = schedule.sigmas[step + 1] - schedule.sigmas[step];
    for (auto& latents : results) {
      const auto noise_pred =
          transformer.forward(latents, embeddings.prompt_embeds, modulations, image_rotary_emb,
                              [&](std::int64_t, const at::Tensor&, const at::Tensor&) {
                                throw_if_interrupted(context.observer);
                              });
      // dt * v is rounded to the model dtype, the sum is made in fp32 (FlowMatchEuler step).
      latents = (latents.to(at::kFloat) + noise_pred * dt).to(noise_pred.scalar_type());
      context.observer.phase_progress(++done);
    }
  }
  for (const auto& latents : results) expect_finite(context, latents, transformer_names());
  return results;
}

std::int64_t decode_steps(const ModelFolder& model) {
  return AutoencoderKlDecoder(model.vae).num_stages();
}

void decode(const PhaseContext& context, const Request& request,
            const std::vector<at::Tensor>& latents,
            const std::function<void(std::int64_t index, Image image)>& on_image) {
  const auto factor = context.model.vae.scale_factor();
  AutoencoderKlDecoder vae(context.model.vae);
  load_component(context, vae, vae_names());
  std::int64_t done = 0;
  for (std::size_t i = 0; i < latents.size(); ++i) {
    const auto grid = unpack_latents(latents[i], request.height / factor, request.width / factor);
    const auto picture = vae.decode(grid, [&](std::int64_t) {
      context.observer.phase_progress(++done);
      throw_if_interrupted(context.observer);
    });
    expect_finite(context, picture, vae_names());
    const auto rgb = to_rgb8(picture);  // [1, H, W, 3]
    Image image{rgb.size(2), rgb.size(1), {}};
    image.rgb.resize(static_cast<std::size_t>(rgb.numel()));
    std::memcpy(image.rgb.data(), rgb.const_data_ptr(), image.rgb.size());
    on_image(static_cast<std::int64_t>(i), std::move(image));
  }
}

}  // namespace steadyflux
