// Embeddings and latents on their way between tensors and files.
#pragma once

#include <c10/core/ScalarType.h>

#include <optional>
#include <string>

#include "embeddings/prompt_embeds_file.h"
#include "pipeline/phases.h"

namespace steadyflux {

// `dtype` is that of both: bf16, fp16 or fp32.
StoredEmbeds to_stored(const ChunkPrompt& prompt, const std::string& dtype,
                       const PromptEmbeddings& embeddings);

// Throws Error{kBadInput} if they are not what `model` takes for this prompt in this dtype.
PromptEmbeddings from_stored(const StoredEmbeds& stored, const FluxModel& model,
                             std::int64_t max_sequence_length, at::ScalarType dtype);

// Of picture `number`, between two steps. Its tensors are shared, not copied.
SavedLatents to_saved(const Denoising& state, std::size_t number);

struct LatentsSoFar {
  at::Tensor latents;
  at::Tensor prediction;
};
// Nothing if they are not [1, S, out_channels] of the request in this dtype, or of more steps than
// it has, or lack what its next step needs, step caches among it.
std::optional<LatentsSoFar> from_saved(const SavedLatents& saved, const FluxModel& model,
                                       const Request& request, const ChunkPicture& picture,
                                       at::ScalarType dtype);

// Those of latents that from_saved has taken, in RAM.
std::vector<StepCache> saved_step_caches(const SavedLatents& saved, const Request& request);

}  // namespace steadyflux
