#include "pipeline/saved_tensors.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <memory>

#include "pipeline/dtypes.h"
#include "scheduler/sampling_schedule.h"

namespace steadyflux {
namespace {

std::vector<std::byte> bytes_of(const at::Tensor& tensor) {
  const auto values = tensor.contiguous();
  std::vector<std::byte> bytes(values.nbytes());
  std::memcpy(bytes.data(), values.const_data_ptr(), bytes.size());
  return bytes;
}

at::Tensor tensor_of(std::span<const std::byte> bytes, const std::vector<std::int64_t>& shape,
                     const std::vector<std::int64_t>& wanted, const char* name,
                     at::ScalarType stored, at::ScalarType dtype) {
  if (shape != wanted) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{} of shape [{}] where this model takes [{}]: they are of another "
                            "model, or for another --max-sequence-length",
                            name, fmt::join(shape, ", "), fmt::join(wanted, ", ")));
  }
  auto tensor = at::empty(shape, stored);
  if (tensor.nbytes() != bytes.size()) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{} has {} bytes instead of {}", name, bytes.size(), tensor.nbytes()));
  }
  std::memcpy(tensor.mutable_data_ptr(), bytes.data(), bytes.size());
  tensor = tensor.to(dtype);
  if (at::isfinite(tensor).all().item<bool>()) return tensor;
  throw Error(ErrorKind::kBadInput, fmt::format("{} are not finite numbers", name));
}

}  // namespace

StoredEmbeds to_stored(const ChunkPrompt& prompt, const std::string& dtype,
                       const PromptEmbeddings& embeddings) {
  StoredEmbeds stored;
  stored.prompt = prompt.text;
  stored.prompt_2 = prompt.text_2;
  stored.max_sequence_length = prompt.max_sequence_length;
  stored.dtype = dtype;
  stored.prompt_embeds_shape = embeddings.prompt_embeds.sizes().vec();
  stored.pooled_shape = embeddings.pooled_prompt_embeds.sizes().vec();
  stored.prompt_embeds = bytes_of(embeddings.prompt_embeds);
  stored.pooled = bytes_of(embeddings.pooled_prompt_embeds);
  return stored;
}

PromptEmbeddings from_stored(const StoredEmbeds& stored, const FluxModel& model,
                             std::int64_t max_sequence_length, at::ScalarType dtype) {
  const auto from = dtype_of_name(stored.dtype);
  if (!from) {
    throw Error(
        ErrorKind::kBadInput,
        fmt::format("embeddings in the dtype '{}', expected bf16, fp16 or fp32", stored.dtype));
  }
  PromptEmbeddings embeddings;
  embeddings.prompt_embeds =
      tensor_of(stored.prompt_embeds, stored.prompt_embeds_shape,
                {1, max_sequence_length, model.transformer.joint_attention_dim}, "prompt_embeds",
                *from, dtype);
  embeddings.pooled_prompt_embeds =
      tensor_of(stored.pooled, stored.pooled_shape, {1, model.transformer.pooled_projection_dim},
                "pooled_prompt_embeds", *from, dtype);
  return embeddings;
}

SavedLatents to_saved(const Denoising& state, std::size_t number) {
  auto owned = std::make_shared<std::vector<at::Tensor>>();
  const auto bytes = [&](const at::Tensor& tensor) {
    if (!tensor.defined()) return SavedLatents::Bytes();
    const auto& values = owned->emplace_back(tensor.contiguous());
    return SavedLatents::Bytes(static_cast<const std::byte*>(values.const_data_ptr()),
                               values.nbytes());
  };
  const auto& latents = state.latents[number];
  SavedLatents saved{state.steps_done[number], dtype_name(latents.scalar_type()),
                     latents.sizes().vec(), bytes(latents), bytes(state.predictions[number])};
  for (const auto& cache : state.step_caches[number]) {
    saved.step_caches.push_back({cache.first_residual.sizes().vec(), bytes(cache.first_residual),
                                 bytes(cache.rest_residual)});
  }
  saved.passes = state.passes[number];
  saved.owner = owned;
  return saved;
}

std::optional<LatentsSoFar> from_saved(const SavedLatents& saved, const FluxModel& model,
                                       const Request& request, const ChunkPicture& picture,
                                       at::ScalarType dtype) {
  const std::vector<std::int64_t> wanted{1, image_seq_len(model, request),
                                         model.transformer.out_channels};
  if (saved.shape != wanted || dtype_of_name(saved.dtype) != dtype || saved.steps_done < 1 ||
      saved.steps_done > request.num_inference_steps) {
    return std::nullopt;
  }
  LatentsSoFar result;
  result.latents = tensor_of(saved.values, saved.shape, wanted, "latents", dtype, dtype);
  if (looks_back(request.sampling)) {
    if (saved.prediction.empty()) return std::nullopt;
    result.prediction = tensor_of(saved.prediction, saved.shape, wanted, "latents", dtype, dtype);
  }
  const std::vector<std::int64_t> of_cache{
      1, tile_seq_len(model, request) + reference_grid(model, request).tokens(),
      model.transformer.inner_dim()};
  const auto size = static_cast<std::size_t>(of_cache[1] * of_cache[2]) * c10::elementSize(dtype);
  const auto fits = [&](const SavedLatents::StepCache& cache) {
    return cache.shape == of_cache && cache.first_residual.size() == size &&
           cache.rest_residual.size() == size;
  };
  const auto& caches = saved.step_caches;
  if (std::ssize(caches) != step_cache_count(model, request, picture) ||
      !std::all_of(caches.begin(), caches.end(), fits)) {
    return std::nullopt;
  }
  return result;
}

std::vector<StepCache> saved_step_caches(const SavedLatents& saved, const Request& request) {
  std::vector<StepCache> caches;
  for (const auto& cache : saved.step_caches) {
    const auto copy = [&](SavedLatents::Bytes bytes) {
      auto tensor = at::empty(cache.shape, dtype_of_name(saved.dtype).value());
      std::memcpy(tensor.mutable_data_ptr(), bytes.data(), bytes.size());
      return tensor;
    };
    caches.push_back(
        {request.sampling.cache_threshold, copy(cache.first_residual), copy(cache.rest_residual)});
  }
  return caches;
}

}  // namespace steadyflux
