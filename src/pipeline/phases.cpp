#include "pipeline/phases.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <span>
#include <utility>

#include "nn/load.h"
#include "pipeline/latents.h"
#include "pipeline/saved_tensors.h"
#include "residency/streamed_weights.h"
#include "scheduler/flow_match_euler.h"
#include "text_encoder/clip_text_model.h"
#include "text_encoder/t5_encoder.h"
#include "tokenizer/clip_tokenizer.h"
#include "tokenizer/t5_tokenizer.h"
#include "transformer/flux_transformer.h"
#include "vae/autoencoder_kl.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kClipLength = 77;

void throw_if_interrupted(Observer& observer) {
  if (const int signal = observer.interrupt_signal()) throw Interrupted(signal);
}

// A component's weights: what plans call them, where they are, and what we do not want of them.
struct WeightsSource {
  const char* name;
  Component component;
  std::filesystem::path FluxModel::Paths::*path;
  std::vector<std::string> ignored_prefixes = {};

  const std::filesystem::path& path_in(const FluxModel& model) const { return model.paths.*path; }
  ComponentWeights open(const FluxModel& model) const {
    return ComponentWeights::open(path_in(model), component);
  }
};

using Paths = FluxModel::Paths;

WeightsSource clip_source() {
  return {"text_encoder", Component::kTextEncoder, &Paths::text_encoder};
}
WeightsSource t5_source() {
  return {"text_encoder_2", Component::kTextEncoder2, &Paths::text_encoder_2};
}
WeightsSource transformer_source() {
  return {"transformer", Component::kTransformer, &Paths::transformer};
}
WeightsSource vae_source() {
  return {"vae", Component::kVae, &Paths::vae, {"encoder.", "quant_conv."}};
}

// Adds the time it lives to the time spent loading.
struct LoadTimer {
  double& seconds;
  std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  ~LoadTimer() {
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
};

LoadOptions load_options(const PhaseContext& context, Component component) {
  LoadOptions options;
  if (context.loras != nullptr) options.loras = context.loras->find(component);
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
std::unique_ptr<StreamedWeights> open_weights(const PhaseContext& context,
                                              const WeightsSource& source,
                                              const std::vector<TensorSlot>& fixed,
                                              const std::vector<WeightUnit>& units,
                                              const WeightsPlan& plan) {
  const LoadTimer timer{context.load_seconds};
  const auto checkpoint = source.open(context.model);
  auto options = load_options(context, source.component);
  options.copy = !plan.mapped;
  load_slots(checkpoint, fixed, options);
  return std::make_unique<StreamedWeights>(units, checkpoint, options, plan);
}

template <typename Model>
void check_component(const FluxModel& files, Model model, const WeightsSource& source) {
  LoadOptions options;
  options.ignored_prefixes = source.ignored_prefixes;
  check_slots(source.open(files), model.slots(), options);
}

// NaN and infinity spread to the whole picture, which would be black: better to say where they
// began.
void expect_finite(const PhaseContext& context, const at::Tensor& values,
                   const WeightsSource& source) {
  if (at::isfinite(values).all().item<bool>()) return;
  const bool fp16 = context.dtype == at::kHalf;
  const bool has_loras =
      context.loras != nullptr && context.loras->find(source.component) != nullptr;
  throw Error(ErrorKind::kBadInput,
              fmt::format("{}: computes values that are not finite numbers; {}",
                          source.path_in(context.model).string(),
                          fp16 ? "fp16 may be too narrow for this model: try --dtype bf16 or fp32"
                          : has_loras ? "a LoRA may be damaged: try without --lora"
                                      : "its weights are damaged, fetch them again"));
}

at::Tensor ids_tensor(const TokenizedPrompt& tokens) {
  return at::tensor(tokens.ids, at::kLong).unsqueeze(0);  // [1, length]
}

// The beginning of a text that may be long, cut between two characters.
std::string beginning(const std::string& text) {
  constexpr std::size_t kMost = 200;  // bytes
  if (text.size() <= kMost) return text;
  auto end = kMost;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return fmt::format("{}... ({} bytes)", text.substr(0, end), text.size());
}

void warn_if_truncated(Observer& observer, const TokenizedPrompt& tokens, const char* encoder,
                       std::int64_t length, const char* advice) {
  if (tokens.lost_text.empty()) return;
  observer.warning(fmt::format("{} reads only the first {} tokens of the prompt; lost: \"{}\"{}",
                               encoder, length, beginning(tokens.lost_text), advice));
}

// body(first, count) for group after group of `members`.
template <typename Body>
void for_groups(std::size_t members, std::int64_t group, Body body) {
  const auto size = static_cast<std::size_t>(group);
  for (std::size_t first = 0; first < members; first += size) {
    body(first, std::min(size, members - first));
  }
}

std::int64_t group_count(std::size_t members, std::int64_t group) {
  return (static_cast<std::int64_t>(members) + group - 1) / group;
}

// The numbers of the prompts that still need what `of` gives.
std::vector<std::size_t> missing(const std::vector<PromptEmbeddings>& embeddings,
                                 at::Tensor PromptEmbeddings::*of) {
  std::vector<std::size_t> numbers;
  for (std::size_t i = 0; i < embeddings.size(); ++i) {
    if (!(embeddings[i].*of).defined()) numbers.push_back(i);
  }
  return numbers;
}

// Progress of the encode phase over both encoders.
class EncodeProgress {
 public:
  explicit EncodeProgress(Observer& observer) : observer_(observer) {}
  void add(std::int64_t steps) { observer_.phase_progress(done_ += steps); }

 private:
  Observer& observer_;
  std::int64_t done_ = 0;
};

std::unique_ptr<Tokenizer> clip_tokenizer(const FluxModel& model) {
  return load_clip_tokenizer(model.paths.tokenizer, model.text_encoder.vocab_size);
}
std::unique_ptr<Tokenizer> t5_tokenizer(const FluxModel& model) {
  return load_t5_tokenizer(model.paths.tokenizer_2, model.text_encoder_2.vocab_size);
}

std::int64_t clip_length(const FluxModel& model) {
  return std::min(kClipLength, model.text_encoder.max_position_embeddings);
}

void warn_of_lost_clip_text(Observer& observer, const TokenizedPrompt& tokens,
                            std::int64_t length) {
  warn_if_truncated(observer, tokens, "CLIP", length, "");
}
void warn_of_lost_t5_text(Observer& observer, const TokenizedPrompt& tokens, std::int64_t length) {
  warn_if_truncated(observer, tokens, "T5", length,
                    length < 512 ? "; raise --max-sequence-length to keep more" : "");
}

// Runs one encoder for the prompts that lack `result`: tokenize(numbers) gives the ids of each,
// forward(model, ids, weights) the results of a group.
template <typename Model, typename Tokenize, typename Forward>
void run_encoder(const PhaseContext& context, const WeightsSource& source, Model model,
                 at::Tensor PromptEmbeddings::*result, std::vector<PromptEmbeddings>& embeddings,
                 Tokenize tokenize, Forward forward) {
  const auto numbers = missing(embeddings, result);
  if (numbers.empty()) return;
  const std::vector<at::Tensor> ids = tokenize(numbers);
  auto plan = weights_plan(context.plan, "encode", source.name);
  const auto group = context.plan.encode_group;
  plan.passes = group_count(numbers.size(), group);
  const auto weights = open_weights(context, source, model.fixed_slots(), model.units(), plan);
  for_groups(numbers.size(), group, [&](std::size_t first, std::size_t count) {
    auto results = forward(model, std::span(ids).subspan(first, count), *weights);
    for (std::size_t i = 0; i < count; ++i) {
      expect_finite(context, results[i], source);
      embeddings[numbers[first + i]].*result = std::exchange(results[i], {}).to(at::kCPU);
    }
  });
}

void encode_clip(const PhaseContext& context, const Chunk& chunk, EncodeProgress& progress,
                 std::vector<PromptEmbeddings>& embeddings) {
  const auto tokenize = [&](const std::vector<std::size_t>& numbers) {
    const auto length = clip_length(context.model);
    const auto tokenizer = clip_tokenizer(context.model);
    std::vector<at::Tensor> ids;
    for (const auto i : numbers) {
      const auto tokens = tokenizer->tokenize(chunk.prompts[i].text, length);
      warn_of_lost_clip_text(context.observer, tokens, length);
      ids.push_back(ids_tensor(tokens));
    }
    return ids;
  };
  const auto forward = [&](const ClipTextModel& model, std::span<const at::Tensor> ids,
                           WeightProvider& weights) {
    auto pooled = model.forward(ids, weights);
    progress.add(static_cast<std::int64_t>(ids.size()));
    throw_if_interrupted(context.observer);
    return pooled;
  };
  run_encoder(context, clip_source(), ClipTextModel(context.model.text_encoder),
              &PromptEmbeddings::pooled_prompt_embeds, embeddings, tokenize, forward);
}

void encode_t5(const PhaseContext& context, const Chunk& chunk, EncodeProgress& progress,
               std::vector<PromptEmbeddings>& embeddings) {
  const auto tokenize = [&](const std::vector<std::size_t>& numbers) {
    const auto tokenizer = t5_tokenizer(context.model);
    std::vector<at::Tensor> ids;
    for (const auto i : numbers) {
      const auto length = chunk.prompts[i].max_sequence_length;
      const auto tokens = tokenizer->tokenize(chunk.prompts[i].text, length);
      warn_of_lost_t5_text(context.observer, tokens, length);
      ids.push_back(ids_tensor(tokens));
    }
    return ids;
  };
  const auto forward = [&](const T5Encoder& model, std::span<const at::Tensor> ids,
                           WeightProvider& weights) {
    return model.forward(ids, weights, [&](std::int64_t) {
      progress.add(static_cast<std::int64_t>(ids.size()));
      throw_if_interrupted(context.observer);
    });
  };
  run_encoder(context, t5_source(), T5Encoder(context.model.text_encoder_2),
              &PromptEmbeddings::prompt_embeds, embeddings, tokenize, forward);
}

}  // namespace

void warn_of_lost_text(const FluxModel& model, std::span<const ChunkPrompt> prompts,
                       Observer& observer) try {
  std::unique_ptr<Tokenizer> clip, t5;  // opened for the first prompt that may be too long
  for (const auto& prompt : prompts) {
    // A token stands for a byte at least; two more mark beginning and end.
    const auto most = static_cast<std::int64_t>(prompt.text.size()) + 2;
    if (most > clip_length(model)) {
      if (!clip) clip = clip_tokenizer(model);
      const auto length = clip_length(model);
      warn_of_lost_clip_text(observer, clip->tokenize(prompt.text, length), length);
    }
    if (most > prompt.max_sequence_length) {
      if (!t5) t5 = t5_tokenizer(model);
      const auto length = prompt.max_sequence_length;
      warn_of_lost_t5_text(observer, t5->tokenize(prompt.text, length), length);
    }
  }
} catch (const Error&) {  // no tokenizers: the embeddings came from where there are some
}

void check_encoders(const FluxModel& model) {
  check_component(model, ClipTextModel(model.text_encoder), clip_source());
  check_component(model, T5Encoder(model.text_encoder_2), t5_source());
}

void check_transformer_and_vae(const FluxModel& model) {
  check_component(model, FluxTransformer(model.transformer), transformer_source());
  check_component(model, AutoencoderKlDecoder(model.vae), vae_source());
}

std::int64_t encode_steps(const FluxModel& model, std::int64_t prompts) {
  return prompts * (1 + model.text_encoder_2.num_layers);
}

void encode(const PhaseContext& context, const Chunk& chunk,
            std::vector<PromptEmbeddings>& embeddings) {
  embeddings.resize(chunk.prompts.size());
  EncodeProgress progress(context.observer);
  encode_clip(context, chunk, progress, embeddings);
  encode_t5(context, chunk, progress, embeddings);
}

std::int64_t modulate_steps(const FluxModel& model) {
  return static_cast<std::int64_t>(FluxTransformer(model.transformer).modulation_units().size());
}

ModulationTables modulate(const PhaseContext& context, const Chunk& chunk,
                          const std::vector<PromptEmbeddings>& embeddings,
                          std::int64_t first_step) {
  const auto& model = context.model;
  ModulationTables tables;
  tables.first = tables.end = first_step;
  std::vector<float> timesteps, guidance;
  std::vector<at::Tensor> pooled;  // [1, pooled_projection_dim]
  for (const auto& table : chunk.tables) {
    const auto schedule =
        make_schedule(model.scheduler, table.num_inference_steps, table.image_len);
    const auto end = std::min(table.num_inference_steps, first_step + context.plan.modulation_rows);
    tables.begin.push_back(static_cast<std::int64_t>(timesteps.size()));
    for (auto step = first_step; step < end; ++step) {
      timesteps.push_back(schedule.timesteps[static_cast<std::size_t>(step)]);
      guidance.push_back(static_cast<float>(table.guidance_scale));
      pooled.push_back(embeddings[table.prompt].pooled_prompt_embeds);
    }
    tables.end = std::max(tables.end, end);
  }
  FluxTransformer transformer(model.transformer);
  const auto weights = open_weights(
      context, transformer_source(), transformer.modulation_fixed_slots(),
      transformer.modulation_units(), weights_plan(context.plan, "modulate", "modulation"));
  std::int64_t done = 0;
  tables.rows = transformer.modulation_table(
      at::tensor(timesteps).to(context.device).to(context.dtype) / 1000,
      model.transformer.guidance_embeds ? at::tensor(guidance).to(context.device) : at::Tensor(),
      at::cat(pooled).to(context.device), *weights, [&] {
        context.observer.phase_progress(++done);
        throw_if_interrupted(context.observer);
      });
  return tables;
}

namespace {

// Takes pictures through the transformer, a group of them step by step; what steps have in common
// is made once.
class Denoiser {
 public:
  Denoiser(const PhaseContext& context, const Chunk& chunk,
           const std::vector<PromptEmbeddings>& embeddings, const ModulationTables& tables,
           Denoising& state)
      : context_(context),
        chunk_(chunk),
        embeddings_(embeddings),
        tables_(tables),
        state_(state),
        transformer_(context.model.transformer),
        group_size_(static_cast<std::size_t>(context.plan.denoise_group)) {}

  void run() {
    if (unfinished().empty()) return;
    open(context_.plan);
    for (auto group = unfinished(); !group.empty(); group = unfinished()) {
      if (group.size() > group_size_) group.resize(group_size_);
      for (const auto picture : group) prepare(picture);
      while (!group.empty()) {
        step(group);
        // Asked once: what is kept must be what the interrupt finds.
        const int signal = context_.observer.interrupt_signal();
        keep(group, signal != 0);
        report();
        if (signal != 0) throw Interrupted(signal);
        std::erase_if(group, [this](std::size_t picture) { return steps_left(picture) == 0; });
        if (replan()) break;  // the passes over the weights were counted anew
      }
      brought_.clear();
    }
  }

 private:
  // What a picture needs in every step, where it is computed.
  struct Brought {
    at::Tensor prompt_embeds;
    RotaryEmbedding image_rotary_emb;
    FlowMatchEulerSchedule schedule;
  };

  std::int64_t steps_left(std::size_t picture) const {
    const auto end = std::min(tables_.end, chunk_.steps(chunk_.pictures[picture]));
    return std::max<std::int64_t>(end - state_.steps_done[picture], 0);
  }

  std::vector<std::size_t> unfinished() const {
    std::vector<std::size_t> pictures;
    for (std::size_t i = 0; i < chunk_.pictures.size(); ++i) {
      if (steps_left(i) > 0) pictures.push_back(i);
    }
    return pictures;
  }

  // Times that the weights are gone through from here on.
  std::int64_t passes() const {
    std::int64_t sum = 0;
    const auto pictures = unfinished();
    for_groups(pictures.size(), static_cast<std::int64_t>(group_size_),
               [&](std::size_t first, std::size_t count) {
                 std::int64_t longest = 0;
                 for (std::size_t i = 0; i < count; ++i) {
                   longest = std::max(longest, steps_left(pictures[first + i]));
                 }
                 sum += longest;
               });
    return sum;
  }

  void prepare(std::size_t number) {
    const auto& picture = chunk_.pictures[number];
    const auto& request = chunk_.request(picture);
    const auto& model = context_.model;
    const auto factor = model.vae.scale_factor();
    const auto height = request.height / factor, width = request.width / factor;
    auto& latents = state_.latents[number];
    if (!latents.defined()) {
      latents =
          prepare_latents(model.transformer.in_channels / 4, height, width,
                          request.seed + static_cast<std::uint64_t>(picture.index), context_.dtype);
    }
    Brought brought;
    brought.prompt_embeds = embeddings_[picture.prompt].prompt_embeds.to(context_.device);
    brought.image_rotary_emb =
        rotary_embedding({request.max_sequence_length, height / 2, width / 2});
    brought.schedule =
        make_schedule(model.scheduler, request.num_inference_steps, image_seq_len(model, request));
    brought_[number] = std::move(brought);
  }

  // text_len, rows and columns of tokens. Pictures of a size share theirs.
  RotaryEmbedding rotary_embedding(const std::array<std::int64_t, 3>& size) {
    if (size != rotary_size_) {
      rotary_size_ = size;
      rotary_ =
          make_rotary_embedding(make_position_ids(size[0], size[1], size[2]).to(context_.device),
                                context_.model.transformer.axes_dims_rope);
    }
    return rotary_;
  }

  // Every picture of the group one step on.
  void step(const std::vector<std::size_t>& group) {
    std::vector<FluxTransformer::Input> inputs;
    for (const auto number : group) {
      const auto& brought = brought_.at(number);
      const auto row =
          tables_.row(chunk_.pictures[number].table, state_.steps_done[number]).to(context_.device);
      inputs.push_back({state_.latents[number].to(context_.device), brought.prompt_embeds,
                        transformer_.split_modulations(row), brought.image_rotary_emb});
    }
    auto noise_preds =
        transformer_.forward(inputs, *weights_, [this](std::int64_t, std::span<const JointStream>) {
          if (context_.latents == nullptr) throw_if_interrupted(context_.observer);
        });
    for (std::size_t i = 0; i < group.size(); ++i) {
      const auto number = group[i];
      const auto step = static_cast<std::size_t>(state_.steps_done[number]);
      const auto& sigmas = brought_.at(number).schedule.sigmas;
      const float dt = sigmas[step + 1] - sigmas[step];
      const auto noise_pred = std::exchange(noise_preds[i], {});
      // dt * v is rounded to the model dtype, the sum is made in fp32 (FlowMatchEuler step).
      auto latents = (inputs[i].hidden_states.to(at::kFloat) + noise_pred * dt)
                         .to(noise_pred.scalar_type())
                         .to(at::kCPU);
      if (state_.steps_done[number] + 1 == chunk_.steps(chunk_.pictures[number])) {
        expect_finite(context_, latents, transformer_source());
      }
      state_.latents[number] = std::move(latents);
      ++state_.steps_done[number];
    }
  }

  // Unfinished pictures, when it is time or the last chance.
  void keep(const std::vector<std::size_t>& group, bool last_chance) const {
    if (context_.latents == nullptr) return;
    for (const auto number : group) {
      const auto done = state_.steps_done[number];
      const auto& picture = chunk_.pictures[number];
      const bool is_time = done % context_.latents->every() == 0;
      if ((!is_time && !last_chance) || done == chunk_.steps(picture)) continue;
      context_.latents->put(picture.request, picture.index, to_saved(state_.latents[number], done));
    }
  }

  void report() const {
    context_.observer.phase_progress(
        std::accumulate(state_.steps_done.begin(), state_.steps_done.end(), std::int64_t{0}));
  }

  // True if another plan is followed from here on.
  bool replan() {
    if (!context_.replan || passes() == 0) return false;
    const Plan* plan = context_.replan(read_before_ + weights_->bytes_read());
    if (plan == nullptr) return false;
    group_size_ = static_cast<std::size_t>(plan->denoise_group);
    auto next = weights_plan(*plan, "denoise", "transformer");
    if (mapped_ || next.mapped) {
      read_before_ += weights_->bytes_read();
      weights_.reset();
      open(*plan);
    } else {
      next.passes = passes();
      weights_->restart(next);
    }
    return true;
  }

  void open(const Plan& plan) {
    auto weights = weights_plan(plan, "denoise", "transformer");
    weights.passes = passes();
    mapped_ = weights.mapped;
    weights_ = open_weights(context_, transformer_source(), transformer_.fixed_slots(),
                            transformer_.units(), weights);
  }

  const PhaseContext& context_;
  const Chunk& chunk_;
  const std::vector<PromptEmbeddings>& embeddings_;
  const ModulationTables& tables_;
  Denoising& state_;
  FluxTransformer transformer_;
  std::size_t group_size_;
  std::map<std::size_t, Brought> brought_;  // of the present group
  std::array<std::int64_t, 3> rotary_size_{};
  RotaryEmbedding rotary_;
  bool mapped_ = false;
  std::int64_t read_before_ = 0;  // by weights_ of earlier plans
  std::unique_ptr<StreamedWeights> weights_;
};

}  // namespace

void denoise(const PhaseContext& context, const Chunk& chunk,
             const std::vector<PromptEmbeddings>& embeddings, const ModulationTables& tables,
             Denoising& state) {
  state.latents.resize(chunk.pictures.size());
  state.steps_done.resize(chunk.pictures.size(), 0);
  Denoiser(context, chunk, embeddings, tables, state).run();
}

std::int64_t decode_steps(const FluxModel& model) {
  return AutoencoderKlDecoder(model.vae).num_stages();
}

void decode(const PhaseContext& context, const Chunk& chunk, const std::vector<at::Tensor>& latents,
            std::size_t& done, const OnImage& on_image) {
  const auto factor = context.model.vae.scale_factor();
  AutoencoderKlDecoder vae(context.model.vae);
  {
    const LoadTimer timer{context.load_seconds};
    load_slots(vae_source().open(context.model), vae.slots(),
               load_options(context, Component::kVae));
  }
  const BandMode mode{context.plan.vae.band_bytes, context.plan.vae.parked_in_ram};
  for (; done < latents.size(); ++done) {
    const auto& picture = chunk.pictures[done];
    const auto& request = chunk.request(picture);
    const auto grid = unpack_latents(latents[done].to(context.device), request.height / factor,
                                     request.width / factor);
    const auto before = static_cast<std::int64_t>(done) * vae.num_stages();
    const auto pixels = vae.decode(grid, mode, [&](std::int64_t stage) {
      context.observer.phase_progress(before + stage);
      throw_if_interrupted(context.observer);
    });
    expect_finite(context, pixels, vae_source());
    const auto rgb = to_rgb8(pixels);  // [1, H, W, 3]
    Image image{rgb.size(2), rgb.size(1), {}};
    image.rgb.resize(static_cast<std::size_t>(rgb.numel()));
    std::memcpy(image.rgb.data(), rgb.const_data_ptr(), image.rgb.size());
    on_image(picture.request, picture.index, std::move(image));
  }
}

}  // namespace steadyflux
