#include "pipeline/phases.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <numeric>

#include "nn/load.h"
#include "pipeline/latents.h"
#include "residency/streamed_weights.h"
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

// Adds the time it lives to the time spent loading.
struct LoadTimer {
  double& seconds;
  std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  ~LoadTimer() {
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
};

LoadOptions load_options(const PhaseContext& context, const WeightNames& names) {
  LoadOptions options = names.options();
  options.dtype = context.dtype;
  options.device = context.device;
  options.complete = false;
  options.progress = [&](std::int64_t, std::int64_t) { throw_if_interrupted(context.observer); };
  return options;
}

const WeightsPlan& weights_plan(const Plan& plan, const std::string& phase,
                                const std::string& component) {
  for (const auto& weights : plan.phase(phase).weights) {
    if (weights.component == component) return weights;
  }
  throw Error(ErrorKind::kInternal, "the plan has no weights for " + component);
}

// Weights of a component, as the plan has them: `fixed` in place, `units` streamed.
std::unique_ptr<StreamedWeights> open_weights(const PhaseContext& context, const WeightNames& names,
                                              const std::vector<TensorSlot>& fixed,
                                              const std::vector<WeightUnit>& units,
                                              const WeightsPlan& plan) {
  const LoadTimer timer{context.load_seconds};
  const auto checkpoint = Checkpoint::open(context.model.root / names.folder);
  auto options = load_options(context, names);
  options.copy = !plan.mapped;
  load_slots(checkpoint, fixed, options);
  return std::make_unique<StreamedWeights>(units, checkpoint, options, plan);
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

std::int64_t image_seq_len(const ModelFolder& model, const Request& request) {
  const auto factor = model.vae.scale_factor();
  return request.height / factor / 2 * (request.width / factor / 2);
}

at::Tensor ids_tensor(const TokenizedPrompt& tokens) {
  return at::tensor(tokens.ids, at::kLong).unsqueeze(0);  // [1, length]
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
  const auto weights =
      open_weights(context, clip_names(), text_encoder.fixed_slots(), text_encoder.units(),
                   weights_plan(context.plan, "encode", "text_encoder"));
  const auto pooled = text_encoder.forward(ids_tensor(tokens), *weights);
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
  const auto weights =
      open_weights(context, t5_names(), text_encoder_2.fixed_slots(), text_encoder_2.units(),
                   weights_plan(context.plan, "encode", "text_encoder_2"));
  const auto embeds =
      text_encoder_2.forward(ids_tensor(tokens), *weights, [&](std::int64_t blocks) {
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

std::int64_t modulate_steps(const ModelFolder& model) {
  return static_cast<std::int64_t>(FluxTransformer(model.transformer).modulation_units().size());
}

ModulationTable modulate(const PhaseContext& context, const Request& request,
                         const PromptEmbeddings& embeddings, std::int64_t first_step) {
  const auto& model = context.model;
  const auto schedule =
      make_schedule(model.scheduler, request.num_inference_steps, image_seq_len(model, request));
  const auto steps =
      std::min(context.plan.modulation_rows, request.num_inference_steps - first_step);
  FluxTransformer transformer(model.transformer);
  const auto weights = open_weights(
      context, transformer_names(), transformer.modulation_fixed_slots(),
      transformer.modulation_units(), weights_plan(context.plan, "modulate", "modulation"));
  const std::vector<float> timesteps(schedule.timesteps.begin() + first_step,
                                     schedule.timesteps.begin() + first_step + steps);
  at::Tensor guidance;
  if (model.transformer.guidance_embeds) {
    guidance = at::full({1}, request.guidance_scale,
                        at::TensorOptions().dtype(at::kFloat).device(context.device));
  }
  std::int64_t done = 0;
  ModulationTable table;
  table.first = first_step;
  table.rows = transformer.modulation_table(
      at::tensor(timesteps).to(context.device).to(context.dtype) / 1000, guidance,
      embeddings.pooled_prompt_embeds, *weights, [&] {
        context.observer.phase_progress(++done);
        throw_if_interrupted(context.observer);
      });
  return table;
}

namespace {

// Follows one request through the transformer; what steps have in common is made once.
class Denoiser {
 public:
  Denoiser(const PhaseContext& context, const Request& request, const PromptEmbeddings& embeddings,
           const ModulationTable& table, std::int64_t passes)
      : context_(context),
        embeddings_(embeddings),
        table_(table),
        transformer_(context.model.transformer),
        schedule_(make_schedule(context.model.scheduler, request.num_inference_steps,
                                image_seq_len(context.model, request))) {
    open(context.plan, passes);
    const auto factor = context.model.vae.scale_factor();
    image_rotary_emb_ = make_rotary_embedding(
        make_position_ids(request.max_sequence_length, request.height / factor / 2,
                          request.width / factor / 2)
            .to(context.device),
        context.model.transformer.axes_dims_rope);
  }

  void change_plan(const Plan& plan, std::int64_t passes) {
    auto next = weights_plan(plan, "denoise", "transformer");
    if (mapped_ || next.mapped) {
      read_before_ = bytes_read();
      weights_.reset();
      open(plan, passes);
      return;
    }
    next.passes = passes;
    weights_->restart(next);
  }

  std::int64_t bytes_read() const { return read_before_ + weights_->bytes_read(); }

  // latents [1, S, in_channels] in RAM -> the same, one step on.
  at::Tensor step(const at::Tensor& latents_in, std::int64_t step) {
    const auto latents = latents_in.to(context_.device);
    const auto row = table_.rows.narrow(0, step - table_.first, 1).to(context_.device);
    const auto noise_pred = transformer_.forward(
        latents, embeddings_.prompt_embeds, transformer_.split_modulations(row), image_rotary_emb_,
        *weights_, [&](std::int64_t, const at::Tensor&, const at::Tensor&) {
          throw_if_interrupted(context_.observer);
        });
    const auto i = static_cast<std::size_t>(step);
    const float dt = schedule_.sigmas[i + 1] - schedule_.sigmas[i];
    // dt * v is rounded to the model dtype, the sum is made in fp32 (FlowMatchEuler step).
    return (latents.to(at::kFloat) + noise_pred * dt).to(noise_pred.scalar_type()).to(at::kCPU);
  }

 private:
  void open(const Plan& plan, std::int64_t passes) {
    auto weights = weights_plan(plan, "denoise", "transformer");
    weights.passes = passes;
    mapped_ = weights.mapped;
    weights_ = open_weights(context_, transformer_names(), transformer_.fixed_slots(),
                            transformer_.units(), weights);
  }

  const PhaseContext& context_;
  const PromptEmbeddings& embeddings_;
  const ModulationTable& table_;
  FluxTransformer transformer_;
  FlowMatchEulerSchedule schedule_;
  RotaryEmbedding image_rotary_emb_;
  bool mapped_ = false;
  std::int64_t read_before_ = 0;  // by weights_ of earlier plans
  std::unique_ptr<StreamedWeights> weights_;
};

}  // namespace

void denoise(const PhaseContext& context, const Request& request,
             const PromptEmbeddings& embeddings, const ModulationTable& table, Denoising& state) {
  const auto& model = context.model;
  const auto factor = model.vae.scale_factor();
  const auto images = static_cast<std::size_t>(request.num_images);
  state.latents.resize(images);
  state.steps_done.resize(images, 0);
  const auto end = table.first + table.rows.size(0);
  const auto steps_left = [&] {
    std::int64_t left = 0;
    for (const auto done : state.steps_done) left += end - done;
    return left;
  };
  if (steps_left() == 0) return;
  Denoiser denoiser(context, request, embeddings, table, steps_left());
  for (std::size_t i = 0; i < images; ++i) {
    auto& latents = state.latents[i];
    auto& done = state.steps_done[i];
    if (!latents.defined()) {
      latents = prepare_latents(model.transformer.in_channels / 4, request.height / factor,
                                request.width / factor,
                                request.seed + static_cast<std::uint64_t>(i), context.dtype);
    }
    while (done < end) {
      latents = denoiser.step(latents, done);
      if (++done == request.num_inference_steps) {
        expect_finite(context, latents, transformer_names());
      }
      context.observer.phase_progress(
          std::accumulate(state.steps_done.begin(), state.steps_done.end(), std::int64_t{0}));
      const Plan* plan =
          context.replan && steps_left() > 0 ? context.replan(denoiser.bytes_read()) : nullptr;
      if (plan != nullptr) denoiser.change_plan(*plan, steps_left());
    }
  }
}

std::int64_t decode_steps(const ModelFolder& model) {
  return AutoencoderKlDecoder(model.vae).num_stages();
}

void decode(const PhaseContext& context, const Request& request,
            const std::vector<at::Tensor>& latents, std::size_t& done,
            const std::function<void(std::int64_t index, Image image)>& on_image) {
  const auto factor = context.model.vae.scale_factor();
  AutoencoderKlDecoder vae(context.model.vae);
  {
    const LoadTimer timer{context.load_seconds};
    load_slots(Checkpoint::open(context.model.root / "vae"), vae.slots(),
               load_options(context, vae_names()));
  }
  const BandMode mode{context.plan.vae.band_bytes, context.plan.vae.parked_in_ram};
  for (; done < latents.size(); ++done) {
    const auto grid = unpack_latents(latents[done].to(context.device), request.height / factor,
                                     request.width / factor);
    const auto before = static_cast<std::int64_t>(done) * vae.num_stages();
    const auto picture = vae.decode(grid, mode, [&](std::int64_t stage) {
      context.observer.phase_progress(before + stage);
      throw_if_interrupted(context.observer);
    });
    expect_finite(context, picture, vae_names());
    const auto rgb = to_rgb8(picture);  // [1, H, W, 3]
    Image image{rgb.size(2), rgb.size(1), {}};
    image.rgb.resize(static_cast<std::size_t>(rgb.numel()));
    std::memcpy(image.rgb.data(), rgb.const_data_ptr(), image.rgb.size());
    on_image(static_cast<std::int64_t>(done), std::move(image));
  }
}

}  // namespace steadyflux
