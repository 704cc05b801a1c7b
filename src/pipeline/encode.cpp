// The first phase: prompts -> embeddings.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <span>
#include <utility>

#include "pipeline/encode_redux.h"
#include "pipeline/phase_weights.h"
#include "pipeline/phases.h"
#include "text_encoder/clip_text_model.h"
#include "text_encoder/t5_encoder.h"
#include "tokenizer/clip_tokenizer.h"
#include "tokenizer/t5_tokenizer.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kClipLength = 77;

at::Tensor ids_tensor(const TokenizedPrompt& tokens) {
  return at::tensor(tokens.ids, at::kLong).unsqueeze(0);  // [1, length]
}

// The beginning of a text that may be long, cut between two characters.
std::string beginning(const std::string& text) {
  constexpr std::size_t kMost = 200;  // bytes
  if (text.size() <= kMost) return text;
  auto end = kMost;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return fmt::format("{}... ({} bytes)", text.substr(0, end), text.size());
}

// What those who wrote a prompt of the chunk call it, or what T5 reads in its place.
const char* called(const Chunk& chunk, std::size_t prompt, bool of_t5) {
  const bool positive =
      std::any_of(chunk.pictures.begin(), chunk.pictures.end(),
                  [&](const ChunkPicture& picture) { return picture.prompt == prompt; });
  if (of_t5 && !chunk.prompts[prompt].text_2.empty()) {
    return positive ? "prompt-2" : "negative-prompt-2";
  }
  return positive ? "the prompt" : "the negative prompt";
}

void warn_if_truncated(Observer& observer, const TokenizedPrompt& tokens, const char* encoder,
                       const char* prompt, std::int64_t length, const char* advice) {
  if (tokens.lost_text.empty()) return;
  observer.warning(fmt::format("{} reads only the first {} tokens of {}; lost: \"{}\"{}", encoder,
                               length, prompt, beginning(tokens.lost_text), advice));
}

// The numbers of the prompts whose texts still need what `of` gives.
std::vector<std::size_t> missing(const Chunk& chunk,
                                 const std::vector<PromptEmbeddings>& embeddings,
                                 at::Tensor PromptEmbeddings::*of) {
  auto numbers = chunk.texts();
  std::erase_if(numbers, [&](std::size_t i) { return (embeddings[i].*of).defined(); });
  return numbers;
}

// Progress of the encode phase over both encoders.
class EncodeProgress {
 public:
  explicit EncodeProgress(Observer& observer) : observer_(observer) {}
  void add(std::int64_t steps) { observer_.phase_progress(done_ += steps); }

 private:
  Observer& observer_;
  std::int64_t done_ = 0;
};

std::unique_ptr<Tokenizer> clip_tokenizer(const FluxModel& model) {
  return load_clip_tokenizer(model.paths.tokenizer, model.text_encoder.vocab_size);
}
std::unique_ptr<Tokenizer> t5_tokenizer(const FluxModel& model) {
  return load_t5_tokenizer(model.paths.tokenizer_2, model.text_encoder_2.vocab_size);
}

std::int64_t clip_length(const FluxModel& model) {
  return std::min(kClipLength, model.text_encoder.max_position_embeddings);
}

// Tokens of a prompt of the chunk, and a warning of what is lost.
TokenizedPrompt clip_tokens(const Tokenizer& tokenizer, const FluxModel& model, const Chunk& chunk,
                            std::size_t prompt, Observer& observer) {
  const auto length = clip_length(model);
  auto tokens = tokenizer.tokenize(chunk.prompts[prompt].text, length);
  warn_if_truncated(observer, tokens, "CLIP", called(chunk, prompt, false), length, "");
  return tokens;
}
TokenizedPrompt t5_tokens(const Tokenizer& tokenizer, const Chunk& chunk, std::size_t prompt,
                          Observer& observer) {
  const auto length = chunk.prompts[prompt].max_sequence_length;
  auto tokens = tokenizer.tokenize(chunk.prompts[prompt].t5_text(), length);
  warn_if_truncated(observer, tokens, "T5", called(chunk, prompt, true), length,
                    length < 512 ? "; raise --max-sequence-length to keep more" : "");
  return tokens;
}

// Runs one encoder for the prompts that lack `result`: tokenize(numbers) gives the ids of each,
// forward(model, ids, weights) the results of a group.
template <typename Model, typename Tokenize, typename Forward>
void run_encoder(const PhaseContext& context, const Chunk& chunk, const WeightsSource& source,
                 Model model, at::Tensor PromptEmbeddings::*result,
                 std::vector<PromptEmbeddings>& embeddings, Tokenize tokenize, Forward forward) {
  const auto numbers = missing(chunk, embeddings, result);
  if (numbers.empty()) return;
  const std::vector<at::Tensor> ids = tokenize(numbers);
  auto plan = weights_plan(context.plan, "encode", source.name);
  const auto group = context.plan.encode_group;
  plan.passes = group_count(numbers.size(), group);
  const auto weights = open_weights(context, source, model.fixed_slots(), model.units(), plan);
  for_groups(numbers.size(), group, [&](std::size_t first, std::size_t count) {
    auto results = forward(model, std::span(ids).subspan(first, count), *weights);
    for (std::size_t i = 0; i < count; ++i) {
      expect_finite(context, results[i], source);
      embeddings[numbers[first + i]].*result = std::exchange(results[i], {}).to(at::kCPU);
    }
  });
  for (std::size_t i = 0; i < embeddings.size(); ++i) {
    embeddings[i].*result = embeddings[chunk.first_with_text_of(i)].*result;
  }
}

void encode_clip(const PhaseContext& context, const Chunk& chunk, EncodeProgress& progress,
                 std::vector<PromptEmbeddings>& embeddings) {
  const auto tokenize = [&](const std::vector<std::size_t>& numbers) {
    const auto tokenizer = clip_tokenizer(context.model);
    std::vector<at::Tensor> ids;
    for (const auto i : numbers) {
      ids.push_back(ids_tensor(clip_tokens(*tokenizer, context.model, chunk, i, context.observer)));
    }
    return ids;
  };
  const auto forward = [&](const ClipTextModel& model, std::span<const at::Tensor> ids,
                           WeightProvider& weights) {
    auto pooled = model.forward(ids, weights);
    progress.add(static_cast<std::int64_t>(ids.size()));
    throw_if_interrupted(context.observer);
    return pooled;
  };
  run_encoder(context, chunk, clip_source(), ClipTextModel(context.model.text_encoder),
              &PromptEmbeddings::pooled_prompt_embeds, embeddings, tokenize, forward);
}

void encode_t5(const PhaseContext& context, const Chunk& chunk, EncodeProgress& progress,
               std::vector<PromptEmbeddings>& embeddings) {
  const auto tokenize = [&](const std::vector<std::size_t>& numbers) {
    const auto tokenizer = t5_tokenizer(context.model);
    std::vector<at::Tensor> ids;
    for (const auto i : numbers) {
      ids.push_back(ids_tensor(t5_tokens(*tokenizer, chunk, i, context.observer)));
    }
    return ids;
  };
  const auto forward = [&](const T5Encoder& model, std::span<const at::Tensor> ids,
                           WeightProvider& weights) {
    return model.forward(ids, weights, [&](std::int64_t) {
      progress.add(static_cast<std::int64_t>(ids.size()));
      throw_if_interrupted(context.observer);
    });
  };
  run_encoder(context, chunk, t5_source(), T5Encoder(context.model.text_encoder_2),
              &PromptEmbeddings::prompt_embeds, embeddings, tokenize, forward);
}

}  // namespace

void warn_of_lost_text(const FluxModel& model, const Chunk& chunk,
                       std::span<const std::size_t> prompts, Observer& observer) try {
  std::unique_ptr<Tokenizer> clip, t5;  // opened for the first prompt that may be too long
  // A token stands for a byte at least; two more mark beginning and end.
  const auto most = [](const std::string& text) {
    return static_cast<std::int64_t>(text.size()) + 2;
  };
  for (const auto i : prompts) {
    const auto& prompt = chunk.prompts[i];
    if (most(prompt.text) > clip_length(model)) {
      if (!clip) clip = clip_tokenizer(model);
      clip_tokens(*clip, model, chunk, i, observer);
    }
    if (most(prompt.t5_text()) > prompt.max_sequence_length) {
      if (!t5) t5 = t5_tokenizer(model);
      t5_tokens(*t5, chunk, i, observer);
    }
  }
} catch (const Error&) {  // no tokenizers: the embeddings came from where there are some
}

std::int64_t encode_steps(const FluxModel& model, std::int64_t texts, std::int64_t redux_images) {
  return texts * (1 + model.text_encoder_2.num_layers) + 2 * redux_images;
}

void encode(const PhaseContext& context, const Chunk& chunk, Encoded& encoded) {
  encoded.embeddings.resize(chunk.prompts.size());
  for (std::size_t i = 0; i < chunk.prompts.size(); ++i) {
    if (chunk.prompts[i].has_text) continue;
    encoded.embeddings[i] = no_prompt(context.model, chunk.prompts[i], context.dtype);
  }
  EncodeProgress progress(context.observer);
  encode_clip(context, chunk, progress, encoded.embeddings);
  encode_t5(context, chunk, progress, encoded.embeddings);
  encode_redux(
      context, chunk, [&] { progress.add(1); }, encoded.image_embeds);
}

}  // namespace steadyflux
