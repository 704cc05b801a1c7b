// The second and third phase: modulations of all steps, then step by step latents.
#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <utility>

#include "nn/reused_buffers.h"
#include "pipeline/guidance.h"
#include "pipeline/latents.h"
#include "pipeline/phase_weights.h"
#include "pipeline/phases.h"
#include "pipeline/picture_sigmas.h"
#include "pipeline/picture_solver.h"
#include "pipeline/saved_tensors.h"
#include "pipeline/tile_blend.h"
#include "transformer/flux_transformer.h"
#include "transformer/recorded_forward.h"

namespace steadyflux {

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
        schedule_of(model, table.sampling, table.num_inference_steps, table.image_len);
    const auto end = std::min(table.steps(), first_step + context.plan.modulation_rows);
    const auto ahead = evaluations_per_step(table.sampling) - 1;
    tables.begin.push_back(static_cast<std::int64_t>(timesteps.size()));
    for (auto step = first_step; step < std::min(table.steps(), end + ahead); ++step) {
      timesteps.push_back(schedule.timesteps[static_cast<std::size_t>(table.skipped_steps + step)]);
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
        transformer_(context.model.transformer, *compute_of_name(context.plan.workload.compute)),
        group_size_(static_cast<std::size_t>(context.plan.denoise_group)) {
    if (!chunk.pictures.empty()) tiles_ = tiles_of(context.model, chunk.request(chunk.pictures[0]));
  }

  void run() {
    if (unfinished().empty()) return;
    open(context_.plan);
    reused_.emplace();
    for (auto group = unfinished(); !group.empty(); group = unfinished()) {
      if (group.size() > pictures_at_once()) group.resize(pictures_at_once());
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
    std::vector<at::Tensor> prompt_embeds;          // of each of its texts
    std::vector<RotaryEmbedding> image_rotary_emb;  // likewise: texts may differ in length
    PictureSolver solver;
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

  // Pictures in tiles go one after the other, each with a group of its tiles at a time.
  bool in_tiles() const { return tiles_.count() > 1; }
  std::size_t pictures_at_once() const { return in_tiles() ? 1 : group_size_; }
  std::int64_t passes_per_evaluation() const {
    if (!in_tiles()) return 1;
    return group_count(static_cast<std::size_t>(tiles_.count()),
                       static_cast<std::int64_t>(group_size_));
  }

  // Steps left in which the transformer is asked twice.
  std::int64_t double_steps_left(std::size_t number) const {
    const auto& picture = chunk_.pictures[number];
    if (evaluations_per_step(chunk_.request(picture).sampling) == 1) return 0;
    const auto left = steps_left(number);
    const bool ends = state_.steps_done[number] + left == chunk_.steps(picture);
    return left > 0 && ends ? left - 1 : left;
  }

  // Times that the weights are gone through from here on.
  std::int64_t passes() const {
    std::int64_t sum = 0;
    const auto pictures = unfinished();
    for_groups(pictures.size(), static_cast<std::int64_t>(pictures_at_once()),
               [&](std::size_t first, std::size_t count) {
                 std::int64_t longest = 0, most_doubled = 0;
                 for (std::size_t i = 0; i < count; ++i) {
                   longest = std::max(longest, steps_left(pictures[first + i]));
                   most_doubled = std::max(most_doubled, double_steps_left(pictures[first + i]));
                 }
                 sum += (longest + most_doubled) * passes_per_evaluation();
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
          prepare_latents(model.transformer.out_channels / 4, height, width,
                          request.seed + static_cast<std::uint64_t>(picture.index), context_.dtype);
    }
    Brought brought;
    const auto tiles = tiles_of(model, request);
    Tokens tokens{0, {tiles.tile_height, tiles.tile_width}, reference_grid(model, request)};
    for (const auto& text : picture.texts()) {
      const auto& embeds = embeddings_[text.prompt].prompt_embeds;
      brought.prompt_embeds.push_back(embeds.to(context_.device));
      tokens.text_len = embeds.size(1);
      brought.image_rotary_emb.push_back(rotary_embedding(tokens));
    }
    brought.solver = PictureSolver(request.sampling.scheduler, sigmas_to_do(model, request));
    auto& caches = state_.step_caches[number];
    if (auto& saved = state_.saved[number]) {
      caches = saved_step_caches(*saved, request);
      saved.reset();
    }
    caches.resize(static_cast<std::size_t>(step_cache_count(model, request, picture)),
                  StepCache{request.sampling.cache_threshold});
    brought_[number] = std::move(brought);
  }

  struct Tokens {
    std::int64_t text_len = 0;
    TokenGrid picture, reference;
    bool operator==(const Tokens&) const = default;
  };

  // Pictures of a size share theirs; of a prompt and a negative one there may be two.
  RotaryEmbedding rotary_embedding(const Tokens& tokens) {
    for (const auto& [known, rotary] : rotary_) {
      if (known == tokens) return rotary;
    }
    if (rotary_.size() == 2) rotary_.erase(rotary_.begin());
    const auto ids = make_position_ids(tokens.text_len, tokens.picture, tokens.reference);
    rotary_.emplace_back(tokens, make_rotary_embedding(ids.to(context_.device),
                                                       context_.model.transformer.axes_dims_rope));
    return rotary_.back().second;
  }

  // Every picture of the group one step on. Should it throw in the midst of a step, the step begins
  // anew the next time.
  void step(std::vector<std::size_t> group) {
    while (!group.empty()) {
      auto velocities =
          in_tiles() ? std::vector{predict_in_tiles(group.front())} : predict_wholes(group);
      for (std::size_t i = 0; i < group.size(); ++i) {
        advance(group[i], std::exchange(velocities[i], {}));
      }
      std::erase_if(group, [this](std::size_t number) { return !in_midst(number); });
    }
  }

  // Whether the transformer is to be asked once more in this step, at the next noise level.
  bool in_midst(std::size_t number) const { return brought_.at(number).solver.trial().defined(); }

  const at::Tensor& latents_to_ask_of(std::size_t number) const {
    return in_midst(number) ? brought_.at(number).solver.trial() : state_.latents[number];
  }

  // What the transformer says of each picture: [1, S, out_channels], where it is computed.
  std::vector<at::Tensor> predict_wholes(const std::vector<std::size_t>& group) {
    std::vector<View> views;
    for (const auto number : group) {
      views.push_back({number, 0, latents_to_ask_of(number), conditioning(number)});
    }
    return predict(views);
  }

  at::Tensor predict_in_tiles(std::size_t number) {
    const auto& latents = latents_to_ask_of(number);
    TileBlend blend(tiles_, latents.size(2));
    for_groups(static_cast<std::size_t>(tiles_.count()), static_cast<std::int64_t>(group_size_),
               [&](std::size_t first, std::size_t count) {
                 std::vector<View> views;
                 for (auto i = first; i < first + count; ++i) {
                   const auto tile = static_cast<std::int64_t>(i);
                   views.push_back(
                       {number, tile, packed_tile(latents, tile), shown_in_tile(number, tile)});
                 }
                 const auto velocities = predict(views);
                 for (std::size_t i = 0; i < count; ++i) {
                   blend.add(static_cast<std::int64_t>(first + i),
                             velocities[i].view({tiles_.tile_height, tiles_.tile_width, -1}));
                 }
               });
    return blend.whole().view({1, -1, latents.size(2)}).to(context_.device, context_.dtype);
  }

  // What the transformer sees at once: a picture or a tile of it, in RAM.
  struct View {
    std::size_t number;  // of the picture
    std::int64_t tile;
    at::Tensor latents;  // packed
    Conditioning shown;
  };

  Conditioning conditioning(std::size_t number) const {
    return number < state_.conditioning.size() ? state_.conditioning[number] : Conditioning{};
  }

  // Of packed values [1, S, C] of the whole picture.
  at::Tensor packed_tile(const at::Tensor& values, std::int64_t tile) const {
    const auto whole = values.view({tiles_.height, tiles_.width, values.size(2)});
    return cut_tile(whole, tiles_, tile).reshape({1, -1, values.size(2)});
  }

  // What belongs to the tile's own places.
  Conditioning shown_in_tile(std::size_t number, std::int64_t tile) const {
    auto shown = conditioning(number);
    if (shown.channels.defined()) shown.channels = packed_tile(shown.channels, tile);
    return shown;
  }

  // Each is asked once a step at most, so that a step that broke off can begin anew.
  StepCache* step_cache(const View& view, std::size_t text, std::size_t texts) {
    auto& caches = state_.step_caches[view.number];
    if (caches.empty()) return nullptr;
    const auto tile = static_cast<std::size_t>(view.tile);
    const auto tiles = static_cast<std::size_t>(tiles_.count());
    return &caches[((in_midst(view.number) ? tiles : 0) + tile) * texts + text];
  }

  std::vector<at::Tensor> predict(const std::vector<View>& views) {
    std::vector<FluxTransformer::Input> inputs;
    std::vector<std::size_t> numbers;
    std::vector<std::int64_t> lengths;  // of the inputs without a reference
    for (const auto& view : views) {
      const auto& brought = brought_.at(view.number);
      const auto latents = view.latents.to(context_.device);
      const auto hidden_states = view.shown.hidden_states(latents);
      const auto texts = chunk_.pictures[view.number].texts();
      const auto step = state_.steps_done[view.number] + (in_midst(view.number) ? 1 : 0);
      for (std::size_t i = 0; i < texts.size(); ++i) {
        inputs.push_back({hidden_states, brought.prompt_embeds[i],
                          tables_.row(texts[i].table, step).to(context_.device),
                          brought.image_rotary_emb[i], step_cache(view, i, texts.size())});
        lengths.push_back(latents.size(1));
      }
      numbers.push_back(view.number);
    }
    auto predictions = forward(inputs);
    for (std::size_t i = 0; i < predictions.size();
         ++i) {  // a reference's tokens are behind its own
      predictions[i] = predictions[i].narrow(1, 0, lengths[i]);
    }
    return guided(chunk_, numbers, std::move(predictions));
  }

  std::vector<at::Tensor> forward(const std::vector<FluxTransformer::Input>& inputs) {
    const auto after_block = [this](std::int64_t, std::span<const JointStream>) {
      if (context_.latents == nullptr) throw_if_interrupted(context_.observer);
    };
    if (recorded_) {
      auto predictions = recorded_->forward(inputs, *weights_, after_block);
      if (const auto& problem = recorded_->problem()) {
        context_.observer.warning("--cuda-graphs on: passes of this model cannot be recorded (" +
                                  *problem + "); they go on without");
        recorded_.reset();
      }
      return predictions;
    }
    return transformer_.forward(inputs, *weights_, after_block);
  }

  // Takes a picture along its velocity to the next level of noise, if its solver knows enough.
  void advance(std::size_t number, const at::Tensor& velocity) {
    const auto step = static_cast<std::size_t>(state_.steps_done[number]);
    auto& solver = brought_.at(number).solver;
    auto made = solver.advance(step, state_.latents[number].to(context_.device), velocity,
                               state_.predictions[number]);
    auto& latents = made ? made->latents : solver.trial();
    if (state_.steps_done[number] + 1 == chunk_.steps(chunk_.pictures[number])) {
      expect_finite(context_, latents, transformer_source());
    }
    if (number < state_.inpainting.size() && state_.inpainting[number].mask.defined()) {
      latents = state_.inpainting[number].keep_unmasked(latents, solver.sigma(step + 1));
    }
    if (!made) return;
    state_.latents[number] = std::move(latents);
    state_.predictions[number] = std::move(made->prediction);
    ++state_.steps_done[number];
    count_passes(number);
  }

  // What the caches of a picture decided in the step that is done.
  void count_passes(std::size_t number) {
    auto& caches = state_.step_caches[number];
    if (caches.empty()) return;
    auto& passes = state_.passes[number];
    for (auto& cache : caches) {
      passes.computed += cache.decision == StepCache::Decision::kCompute ? 1 : 0;
      passes.reused += cache.decision == StepCache::Decision::kReuse ? 1 : 0;
      cache.decision = StepCache::Decision::kOpen;
    }
    const auto& picture = chunk_.pictures[number];
    if (state_.steps_done[number] < chunk_.steps(picture)) return;
    caches.clear();
    caches.shrink_to_fit();
    context_.observer.passes_made(picture.request, picture.index, passes);
  }

  // Unfinished pictures, when it is time or the last chance.
  void keep(const std::vector<std::size_t>& group, bool last_chance) const {
    if (context_.latents == nullptr) return;
    for (const auto number : group) {
      const auto done = state_.steps_done[number];
      const auto& picture = chunk_.pictures[number];
      const bool is_time = done % context_.latents->every() == 0;
      if ((!is_time && !last_chance) || done == chunk_.steps(picture)) continue;
      context_.latents->put(picture.request, picture.index, to_saved(state_, number));
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
    reused_.reset();  // there may be less room from here on
    recorded_.reset();
    if (mapped_ || next.mapped) {
      read_before_ += weights_->bytes_read();
      weights_.reset();
      open(*plan);
    } else {
      next.passes = passes();
      weights_->restart(next);
    }
    reused_.emplace();
    return true;
  }

  void open(const Plan& plan) {
    auto weights = weights_plan(plan, "denoise", "transformer");
    weights.passes = passes();
    mapped_ = weights.mapped;
    weights_ = open_weights(context_, transformer_source(), transformer_.fixed_slots(),
                            transformer_.units(), weights);
    if (plan.records_passes && RecordedForward::is_possible(context_.device)) {
      recorded_.emplace(transformer_, context_.device);
    }
  }

  const PhaseContext& context_;
  const Chunk& chunk_;
  const std::vector<PromptEmbeddings>& embeddings_;
  const ModulationTables& tables_;
  Denoising& state_;
  FluxTransformer transformer_;
  std::size_t group_size_;
  TileGrid tiles_;                                          // of every picture
  std::map<std::size_t, Brought> brought_;                  // of the present group
  std::vector<std::pair<Tokens, RotaryEmbedding>> rotary_;  // the last ones
  bool mapped_ = false;
  std::int64_t read_before_ = 0;  // by weights_ of earlier plans
  std::unique_ptr<StreamedWeights> weights_;
  std::optional<ReusedBuffers> reused_;  // from step to step
  std::optional<RecordedForward> recorded_;
};

}  // namespace

void Denoising::resize(std::size_t pictures) {
  latents.resize(pictures);
  steps_done.resize(pictures, 0);
  predictions.resize(pictures);
  step_caches.resize(pictures);
  saved.resize(pictures);
  passes.resize(pictures);
}

void denoise(const PhaseContext& context, const Chunk& chunk,
             const std::vector<PromptEmbeddings>& embeddings, const ModulationTables& tables,
             Denoising& state) {
  state.resize(chunk.pictures.size());
  Denoiser(context, chunk, embeddings, tables, state).run();
}

}  // namespace steadyflux
