// The phases of a chunk of pictures, each opening its own components and closing them before the
// next: prompts -> embeddings -> latents -> pixels. Nothing is shared between phases but small
// tensors.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "config/model_config.h"
#include "memory/plan.h"
#include "pipeline/chunk.h"
#include "pipeline/lora_set.h"
#include "steadyflux/pipeline.h"
#include "transformer/step_cache.h"

namespace steadyflux {

// Where and how the phases run.
struct PhaseContext {
  const FluxModel& model;
  c10::Device device;
  at::ScalarType dtype;
  Observer& observer;
  double& load_seconds;  // grows by the time spent opening weights
  const Plan& plan;      // where weights and activations are
  // Asked between denoising steps, with the bytes that were read on purpose in this phase: another
  // plan if this one should not be kept to. May be empty.
  std::function<const Plan*(std::int64_t bytes_read)> replan = {};
  LatentsStore* latents = nullptr;  // where unfinished pictures are kept, if they are
  const LoraSet* loras = nullptr;   // null: none
};

// Of one prompt, in RAM.
struct PromptEmbeddings {
  // [1, max_sequence_length, joint_attention_dim]; with pictures behind it (join_redux) longer.
  at::Tensor prompt_embeds;
  at::Tensor pooled_prompt_embeds;  // [1, pooled_projection_dim]
  bool defined() const { return prompt_embeds.defined() && pooled_prompt_embeds.defined(); }
};

// Reads the headers of weight files: throws Error{kBadInput} if a tensor is missing, misshapen or
// cut off. So a damaged VAE is found before minutes of denoising.
void check_encoders(const FluxModel& model);
void check_redux(const FluxModel& model);  // which has one
void check_transformer_and_vae(const FluxModel& model);
void check_vae_encoder(const FluxModel& model);

// Says what the encoders did not read of prompts (by their numbers) whose embeddings are there
// already.
void warn_of_lost_text(const FluxModel& model, const Chunk& chunk,
                       std::span<const std::size_t> prompts, Observer& observer);

// What encoding gives, in RAM: of each prompt of the chunk, and image_embeds [1, redux_tokens,
// joint_attention_dim] of each of its Redux pictures.
struct Encoded {
  std::vector<PromptEmbeddings> embeddings;
  std::vector<at::Tensor> image_embeds;
};

// Fills in what is not there yet, so that it can be called again after it threw. Progress steps:
// one for every text in CLIP and in each T5 block, and for every picture in its two models.
std::int64_t encode_steps(const FluxModel& model, std::int64_t texts, std::int64_t redux_images);
void encode(const PhaseContext& context, const Chunk& chunk, Encoded& encoded);

// Zeros, for prompts without a text.
PromptEmbeddings no_prompt(const FluxModel& model, const ChunkPrompt& prompt, at::ScalarType dtype);

// The tokens of pictures join those of the prompts they stand behind, as in diffusers'
// FluxPriorReduxPipeline: with several, the sum of the prompt and each picture, weighted by scales;
// CLIP's vector is added up unweighted.
void join_redux(const Chunk& chunk, Encoded& encoded);

// Modulations of the steps from `first` to before `end`, of all tables of a chunk, in RAM.
struct ModulationTables {
  at::Tensor rows;                  // [all steps, FluxTransformer::modulation_width()]
  std::vector<std::int64_t> begin;  // one for each table: where its steps begin in `rows`
  // Tables of Heun's method, whose steps look ahead, have one row more where there is one.
  std::int64_t first = 0, end = 0;

  at::Tensor row(std::size_t table, std::int64_t step) const {  // [1, modulation_width()]
    return rows.narrow(0, begin[table] + step - first, 1);
  }
};

// At most plan.modulation_rows steps of each table. Progress steps: modulate_steps.
std::int64_t modulate_steps(const FluxModel& model);
ModulationTables modulate(const PhaseContext& context, const Chunk& chunk,
                          const std::vector<PromptEmbeddings>& embeddings, std::int64_t first_step);

// What stays as it was where nothing is painted. Packed, [1, S, out_channels], in RAM.
struct Inpainting {
  at::Tensor mask;           // 1 where it is painted; undefined: everywhere
  at::Tensor image_latents;  // of the picture
  at::Tensor noise;          // that it was mixed with

  // `latents` where it is painted, elsewhere the picture at this level of noise.
  at::Tensor keep_unmasked(const at::Tensor& latents, float sigma) const;
};

// What the transformer is shown of a picture in every step. Packed, in RAM; undefined: nothing.
struct Conditioning {
  at::Tensor channels;  // [1, S, condition_channels()], beside those of the latents
  at::Tensor tokens;    // [1, S_ref, out_channels], of a reference, behind the latents

  bool defined() const { return channels.defined() || tokens.defined(); }
  // latents [1, S, out_channels] -> what goes into the transformer, [1, S + S_ref, in_channels],
  // where the latents are.
  at::Tensor hidden_states(const at::Tensor& latents) const;
};

// How far the pictures of a chunk are.
struct Denoising {
  // Room for so many pictures; what there is of them stays.
  void resize(std::size_t pictures);

  std::vector<at::Tensor> latents;         // packed, [1, S, out_channels], in RAM; one per picture
  std::vector<std::int64_t> steps_done;    // one per picture
  std::vector<Inpainting> inpainting;      // one per picture, or none at all
  std::vector<Conditioning> conditioning;  // likewise
  // PictureSolver::Step::prediction of the last step, one per picture.
  std::vector<at::Tensor> predictions;
  // Of pictures with step caching, while their steps are under way: one for each text, in each
  // tile, at each evaluation of a step. And what came of it.
  std::vector<std::vector<StepCache>> step_caches;
  // Where they are until then, of pictures that go on from an earlier run.
  std::vector<std::optional<SavedLatents>> saved;
  std::vector<PassCounts> passes;
};

// Makes the latents that pictures with an init_image begin from, what inpainting keeps, and what
// the transformer is shown. As often as it is called, what is there already stays. Progress steps:
// encode_image_steps.
std::int64_t encode_image_steps(const Chunk& chunk);
void encode_images(const PhaseContext& context, const Chunk& chunk, Denoising& state);

// Takes the pictures through the steps that the tables have, in groups of plan.denoise_group. Goes
// on where `state` stands, so that it can be called again after it threw. Progress steps:
// chunk.total_steps().
void denoise(const PhaseContext& context, const Chunk& chunk,
             const std::vector<PromptEmbeddings>& embeddings, const ModulationTables& tables,
             Denoising& state);

// Decodes picture number `done` of the chunk and those behind it as far as there are latents,
// raising `done` after each: it can be called again after it threw. Progress steps: decode_steps,
// of as many pictures.
std::int64_t decode_steps(const FluxModel& model, const Chunk& chunk, std::size_t pictures);
void decode(const PhaseContext& context, const Chunk& chunk, const std::vector<at::Tensor>& latents,
            std::size_t& done, const OnImage& on_image);

}  // namespace steadyflux
