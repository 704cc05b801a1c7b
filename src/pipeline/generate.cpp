#include "pipeline/generate.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "pipeline/out_of_memory.h"
#include "pipeline/phase_weights.h"
#include "pipeline/phases.h"
#include "pipeline/saved_tensors.h"

namespace steadyflux {
namespace {

std::size_t finished_pictures(const Denoising& state, const Chunk& chunk) {
  std::size_t count = 0;
  while (count < state.steps_done.size() &&
         state.steps_done[count] == chunk.steps(chunk.pictures[count])) {
    ++count;
  }
  return count;
}

void encode_missing(const FluxModel& model, const Chunk& chunk, PhaseRunner& runner,
                    std::vector<PromptEmbeddings>& embeddings,
                    const std::function<void(std::size_t, const PromptEmbeddings&)>& on_encoded) {
  auto missing = chunk.texts();
  std::erase_if(missing, [&](std::size_t i) { return embeddings[i].defined(); });
  if (missing.empty() && chunk.redux_images.empty()) return;
  const auto read_ahead = read_ahead_while_encoding(model, runner.plan());
  Encoded encoded{std::exchange(embeddings, {}), {}};
  runner.run("encode",
             encode_steps(model, static_cast<std::int64_t>(missing.size()),
                          static_cast<std::int64_t>(chunk.redux_images.size())),
             [&](const PhaseContext& context) { encode(context, chunk, encoded); });
  if (on_encoded) {
    for (const auto i : missing) on_encoded(i, encoded.embeddings[i]);
  }
  join_redux(chunk, encoded);
  embeddings = std::move(encoded.embeddings);
}

}  // namespace

Denoising begin_denoising(const Chunk& chunk, LatentsStore* latents, const FluxModel& model,
                          at::ScalarType dtype) {
  Denoising state;
  state.resize(chunk.pictures.size());
  for (std::size_t i = 0; latents != nullptr && i < chunk.pictures.size(); ++i) {
    const auto& picture = chunk.pictures[i];
    auto saved = latents->find(picture.request, picture.index);
    if (!saved) continue;
    auto so_far = from_saved(*saved, model, chunk.request(picture), picture, dtype);
    if (!so_far) continue;
    state.latents[i] = std::move(so_far->latents);
    state.predictions[i] = std::move(so_far->prediction);
    state.passes[i] = saved->passes;
    state.steps_done[i] = saved->steps_done;
    if (!saved->step_caches.empty()) state.saved[i] = std::move(saved);
  }
  return state;
}

void generate_pictures(
    const FluxModel& model, const Chunk& chunk, std::vector<PromptEmbeddings> embeddings,
    Denoising state, PhaseRunner& runner, const OnImage& on_image,
    const std::function<void(std::size_t prompt, const PromptEmbeddings&)>& on_encoded) {
  embeddings.resize(chunk.prompts.size());
  encode_missing(model, chunk, runner, embeddings, on_encoded);

  if (const auto images = encode_image_steps(chunk); images > 0) {
    runner.run("encode_image", images,
               [&](const PhaseContext& context) { encode_images(context, chunk, state); });
  }

  std::exception_ptr failure;
  std::int64_t steps = 0;  // of the picture that has most
  for (const auto& picture : chunk.pictures) steps = std::max(steps, chunk.steps(picture));
  const auto first = *std::min_element(state.steps_done.begin(), state.steps_done.end());
  try {
    for (std::int64_t step = first; step < steps;) {
      ModulationTables tables;
      runner.run("modulate", modulate_steps(model), [&](const PhaseContext& context) {
        tables = modulate(context, chunk, embeddings, step);
      });
      runner.run("denoise", chunk.total_steps(), [&](const PhaseContext& context) {
        denoise(context, chunk, embeddings, tables, state);
      });
      step = tables.end;
    }
  } catch (const std::exception& error) {
    // There is no leaner plan any more; what is finished is given all the same.
    state.latents.resize(finished_pictures(state, chunk));
    state.step_caches.clear();
    state.saved.clear();
    if (state.latents.empty() || !out_of_memory_detail(error)) throw;
    failure = std::current_exception();
  }
  embeddings.clear();
  std::size_t decoded = 0;
  runner.run("decode", decode_steps(model, chunk, state.latents.size()),
             [&](const PhaseContext& context) {
               decode(context, chunk, state.latents, decoded, on_image);
             });
  if (failure) std::rethrow_exception(failure);
}

}  // namespace steadyflux
