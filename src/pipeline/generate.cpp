#include "pipeline/generate.h"

#include <exception>
#include <utility>

#include "pipeline/out_of_memory.h"
#include "pipeline/phases.h"

namespace steadyflux {
namespace {

std::size_t finished_pictures(const Denoising& state, const Request& request) {
  std::size_t count = 0;
  while (count < state.steps_done.size() &&
         state.steps_done[count] == request.num_inference_steps) {
    ++count;
  }
  return count;
}

}  // namespace

void generate_pictures(const ModelFolder& model, const Request& request, PhaseRunner& runner,
                       const std::function<void(std::int64_t index, Image image)>& on_image) {
  PromptEmbeddings embeddings;
  runner.run("encode", encode_steps(model), [&](const PhaseContext& context) {
    embeddings = encode_prompt(context, request.prompt, request.max_sequence_length);
  });

  Denoising state;
  std::exception_ptr failure;
  try {
    for (std::int64_t step = 0; step < request.num_inference_steps;) {
      ModulationTable table;
      runner.run("modulate", modulate_steps(model), [&](const PhaseContext& context) {
        table = modulate(context, request, embeddings, step);
      });
      runner.run("denoise", request.num_images * request.num_inference_steps,
                 [&](const PhaseContext& context) {
                   denoise(context, request, embeddings, table, state);
                 });
      step = table.first + table.rows.size(0);
    }
  } catch (const std::exception& error) {
    // There is no leaner plan any more; what is finished is given all the same.
    state.latents.resize(finished_pictures(state, request));
    if (state.latents.empty() || !out_of_memory_detail(error)) throw;
    failure = std::current_exception();
  }
  embeddings = {};
  std::size_t decoded = 0;
  runner.run("decode", static_cast<std::int64_t>(state.latents.size()) * decode_steps(model),
             [&](const PhaseContext& context) {
               decode(context, request, state.latents, decoded, on_image);
             });
  if (failure) std::rethrow_exception(failure);
}

}  // namespace steadyflux
