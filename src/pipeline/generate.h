// The phases of a request one after the other: the table of contents of making pictures.
#pragma once

#include <cstdint>
#include <functional>

#include "pipeline/phase_runner.h"

namespace steadyflux {

// The state from which to go on: nothing done, but for what `latents` (may be nullptr) kept.
Denoising begin_denoising(const Chunk& chunk, LatentsStore* latents, const FluxModel& model,
                          at::ScalarType dtype);

// Pictures come in their order, each as soon as it is decoded. `embeddings`: one for each prompt of
// the chunk, undefined where it has to be encoded; gone when this returns. If memory runs out for
// good while some pictures are finished, those are given before the exception goes on its way.
void generate_pictures(
    const FluxModel& model, const Chunk& chunk, std::vector<PromptEmbeddings> embeddings,
    Denoising state, PhaseRunner& runner, const OnImage& on_image,
    const std::function<void(std::size_t prompt, const PromptEmbeddings&)>& on_encoded = {});

}  // namespace steadyflux
