#include "pipeline/chunk.h"

#include <algorithm>
#include <map>

#include "scheduler/sampling_schedule.h"

namespace steadyflux {
namespace {

// The place of `value` in `list`, to which it is added if it is not there.
template <typename T>
std::size_t index_of(const T& value, std::vector<T>& list, std::map<T, std::size_t>& places) {
  const auto [place, is_new] = places.try_emplace(value, list.size());
  if (is_new) list.push_back(value);
  return place->second;
}

ChunkPrompt prompt_of(const std::string& text, const std::string& text_2, const Request& request) {
  return {text, text_2 == text ? "" : text_2, request.max_sequence_length};
}

}  // namespace

ChunkPrompt chunk_prompt(const Request& request) {
  return prompt_of(request.prompt, request.prompt_2, request);
}
ChunkPrompt negative_chunk_prompt(const Request& request) {
  return prompt_of(*request.negative_prompt, request.negative_prompt_2, request);
}

std::size_t Chunk::first_with_text_of(std::size_t prompt) const {
  std::size_t first = 0;
  while (first < prompt && !prompts[first].has_text_of(prompts[prompt])) ++first;
  return first;
}

std::vector<std::size_t> Chunk::texts() const {
  std::vector<std::size_t> numbers;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    if (prompts[i].has_text && first_with_text_of(i) == i) numbers.push_back(i);
  }
  return numbers;
}

std::vector<ChunkText> ChunkPicture::texts() const {
  std::vector<ChunkText> texts = {{prompt, table}};
  if (negative) texts.push_back(*negative);
  return texts;
}

std::int64_t Chunk::total_steps() const {
  std::int64_t sum = 0;
  for (const auto& picture : pictures) sum += steps(picture);
  return sum;
}

namespace {

// The prompt with the pictures behind it, which join the chunk's.
ChunkPrompt whole_prompt(const Request& request, Chunk& chunk) {
  auto prompt = chunk_prompt(request);
  prompt.has_text = request.has_prompt;
  auto& images = chunk.redux_images;
  for (const auto& image : request.redux_images) {
    const auto known = std::find_if(images.begin(), images.end(), [&](const ReduxImage* other) {
      return other->image == image.image;
    });
    prompt.redux.push_back({static_cast<std::size_t>(known - images.begin()), image.scale});
    if (known == images.end()) images.push_back(&image);
  }
  return prompt;
}

}  // namespace

Chunk make_chunk(const FluxModel& model, std::span<const Request> requests) {
  Chunk chunk;
  chunk.requests = requests;
  std::map<ChunkPrompt, std::size_t> prompts;
  std::map<ChunkTable, std::size_t> tables;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const Request& request = requests[i];
    const double guidance = model.transformer.guidance_embeds ? request.guidance_scale : 0.0;
    auto sampling = request.sampling;
    sampling.cache_threshold = 0;  // no modulation depends on it
    const auto place = [&](const ChunkPrompt& text) -> ChunkText {
      const auto prompt = index_of(text, chunk.prompts, prompts);
      const auto table = index_of({prompt, request.num_inference_steps, skipped_steps(request),
                                   tile_seq_len(model, request), guidance, sampling},
                                  chunk.tables, tables);
      return {prompt, table};
    };
    const auto [prompt, table] = place(whole_prompt(request, chunk));
    std::optional<ChunkText> negative;
    if (request.has_true_cfg()) negative = place(negative_chunk_prompt(request));
    for (std::int64_t index = 0; index < request.num_images; ++index) {
      chunk.pictures.push_back({i, index, prompt, table, negative});
    }
  }
  if (!chunk.redux_images.empty()) chunk.redux_tokens = model.redux.value().num_tokens();
  return chunk;
}

// As diffusers rounds: the steps to make are not rounded, what is left of all of them is cut. One
// step at least is made, where the sum below is too coarse for a strength near 0.
std::int64_t skipped_steps(const Request& request) {
  if (!request.init_image) return 0;
  const auto steps = static_cast<double>(request.num_inference_steps);
  const double made = std::min(steps * request.init_image->strength, steps);
  const auto skipped = static_cast<std::int64_t>(std::max(steps - made, 0.0));
  return std::min(skipped, request.num_inference_steps - 1);
}

TileGrid tiles_of(const FluxModel& model, const Request& request) {
  return token_tiles(request.height, request.width, request.tile, 2 * model.vae.scale_factor());
}

std::int64_t tile_seq_len(const FluxModel& model, const Request& request) {
  const auto tiles = tiles_of(model, request);
  return tiles.tile_height * tiles.tile_width;
}

std::int64_t image_seq_len(const FluxModel& model, const Request& request) {
  const auto tiles = tiles_of(model, request);
  return tiles.height * tiles.width;
}

const ConditionImage* reference_of(const Request& request) {
  const auto* condition = request.condition.get();
  const bool is_reference =
      condition != nullptr && condition->role == ConditionImage::Role::kReference;
  return is_reference ? condition : nullptr;
}

TokenGrid reference_grid(const FluxModel& model, const Request& request) {
  const auto* reference = reference_of(request);
  if (reference == nullptr) return {};
  const auto side = 2 * model.vae.scale_factor();
  return {reference->height / side, reference->width / side};
}

std::int64_t step_cache_count(const FluxModel& model, const Request& request,
                              const ChunkPicture& picture) {
  if (!(request.sampling.cache_threshold > 0)) return 0;
  return evaluations_per_step(request.sampling) * tiles_of(model, request).count() *
         static_cast<std::int64_t>(picture.texts().size());
}

}  // namespace steadyflux
