// The pictures that are made in one go: what they have in common is made once. Torch-free.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "config/model_config.h"
#include "config/tiles.h"
#include "steadyflux/pipeline.h"

namespace steadyflux {

// A picture that stands behind a prompt, and how strongly it counts.
struct ChunkReduxUse {
  std::size_t image = 0;  // of Chunk::redux_images
  double scale = 1.0;
  auto operator<=>(const ChunkReduxUse&) const = default;
};

struct ChunkPrompt {
  std::string text;
  std::string text_2 = {};  // what T5 reads, where that is not the same; else empty
  std::int64_t max_sequence_length = 512;
  bool has_text = true;  // false: zeros stand for it
  std::vector<ChunkReduxUse> redux = {};
  auto operator<=>(const ChunkPrompt&) const = default;
  const std::string& t5_text() const { return text_2.empty() ? text : text_2; }
  bool has_text_of(const ChunkPrompt& other) const {
    return has_text && other.has_text && text == other.text && text_2 == other.text_2 &&
           max_sequence_length == other.max_sequence_length;
  }
};

// What the modulations of a picture depend on.
struct ChunkTable {
  std::size_t prompt = 0;  // of Chunk::prompts
  std::int64_t num_inference_steps = 1;
  std::int64_t skipped_steps = 0;  // of them, at the beginning: of image to image
  std::int64_t image_len = 0;      // packed tokens of a tile, on which the schedule depends
  double guidance_scale = 0.0;     // 0 for models without a guidance embedding
  Sampling sampling = {};
  auto operator<=>(const ChunkTable&) const = default;
  std::int64_t steps() const { return num_inference_steps - skipped_steps; }
};

// The texts that the request has encoded; of the negative one only if it has one.
ChunkPrompt chunk_prompt(const Request& request);
ChunkPrompt negative_chunk_prompt(const Request& request);

// A prompt that a picture goes by, and the modulations that belong to it.
struct ChunkText {
  std::size_t prompt = 0;  // of Chunk::prompts
  std::size_t table = 0;   // of Chunk::tables
};

struct ChunkPicture {
  std::size_t request = 0;  // of Chunk::requests
  std::int64_t index = 0;   // among the pictures of the request
  std::size_t prompt = 0;
  std::size_t table = 0;
  std::optional<ChunkText> negative = {};  // with true CFG only

  // What goes through the transformer in every step: its prompt, then the negative one.
  std::vector<ChunkText> texts() const;
};

// Steps that the request's strength leaves out.
std::int64_t skipped_steps(const Request& request);

struct Chunk {
  std::span<const Request> requests;
  std::vector<ChunkPrompt> prompts;             // different ones
  std::vector<const ReduxImage*> redux_images;  // different files, of the requests
  std::int64_t redux_tokens = 0;                // behind a prompt that has such pictures
  std::vector<ChunkTable> tables;
  std::vector<ChunkPicture> pictures;  // in the order of the requests

  const Request& request(const ChunkPicture& picture) const { return requests[picture.request]; }
  std::int64_t steps(const ChunkPicture& picture) const {
    return request(picture).num_inference_steps - skipped_steps(request(picture));
  }
  std::int64_t total_steps() const;
  // The first of the prompts that has this one's text: encoded once for all of them.
  std::size_t first_with_text_of(std::size_t prompt) const;
  // Prompts whose text none before them has.
  std::vector<std::size_t> texts() const;
};

// `requests` have to outlive it.
Chunk make_chunk(const FluxModel& model, std::span<const Request> requests);

// The tiles of a picture in packed tokens; one where it is made as a whole.
TileGrid tiles_of(const FluxModel& model, const Request& request);

// Tokens that the transformer sees at once: those of a tile.
std::int64_t tile_seq_len(const FluxModel& model, const Request& request);

// Tokens of the packed picture, without those of a reference.
std::int64_t image_seq_len(const FluxModel& model, const Request& request);

// The reference that the model is shown, or nullptr; and its packed tokens, 0 by 0 without one.
const ConditionImage* reference_of(const Request& request);
TokenGrid reference_grid(const FluxModel& model, const Request& request);

// Step caches of a picture: one for each text, in each tile, at each evaluation of a step.
std::int64_t step_cache_count(const FluxModel& model, const Request& request,
                              const ChunkPicture& picture);

}  // namespace steadyflux
