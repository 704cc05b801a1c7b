// Embeddings whose values tell which prompt they belong to.
#pragma once

#include <cstddef>
#include <string>

#include "embeddings/prompt_embeds_file.h"

inline steadyflux::StoredEmbeds make_embeds(const std::string& prompt, int seed,
                                            std::int64_t length = 4, std::int64_t width = 6) {
  steadyflux::StoredEmbeds embeds;
  embeds.prompt = prompt;
  embeds.max_sequence_length = length;
  embeds.encoder = "0123456789abcdef";
  embeds.dtype = "bf16";
  embeds.prompt_embeds_shape = {1, length, width};
  embeds.pooled_shape = {1, 3};
  embeds.prompt_embeds.resize(static_cast<std::size_t>(length * width) * 2);
  embeds.pooled.resize(6);
  for (std::size_t i = 0; i < embeds.prompt_embeds.size(); ++i) {
    embeds.prompt_embeds[i] = static_cast<std::byte>(static_cast<std::size_t>(seed) * 13 + i * 5);
  }
  for (std::size_t i = 0; i < 6; ++i) embeds.pooled[i] = static_cast<std::byte>(seed + 100);
  return embeds;
}

inline bool same_embeds(const steadyflux::StoredEmbeds& a, const steadyflux::StoredEmbeds& b) {
  return a.prompt == b.prompt && a.prompt_2 == b.prompt_2 && a.negative == b.negative &&
         a.max_sequence_length == b.max_sequence_length && a.encoder == b.encoder &&
         a.loras == b.loras && a.dtype == b.dtype &&
         a.prompt_embeds_shape == b.prompt_embeds_shape && a.pooled_shape == b.pooled_shape &&
         a.prompt_embeds == b.prompt_embeds && a.pooled == b.pooled;
}
