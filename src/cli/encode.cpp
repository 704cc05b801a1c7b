// steadyflux encode: prompts become embeddings in a file, to make pictures where there is no room
// for the text encoders.
#include <fmt/format.h>

#include <set>

#include "batch/prompt_file.h"
#include "checkpoints/open_model.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/embeds_store.h"
#include "cli/encoder_loras.h"
#include "cli/json_output.h"
#include "cli/prompt_options.h"
#include "cli/request.h"
#include "embeddings/kept_identity.h"
#include "embeddings/prompt_embeds_file.h"
#include "pipeline/chunk.h"
#include "steadyflux/error.h"

namespace steadyflux::cli {
namespace {

// Prompts that go through the encoders together; what is encoded is written before the next.
constexpr std::size_t kMostAtOnce = 64;

struct PromptToEncode {
  ChunkPrompt prompt;
  bool negative = false;
};

// The request of every line of a prompt file, as far as encoding goes.
std::vector<Request> requests_of(const GenerateJob& job, const std::string& file) {
  std::vector<Request> requests;
  for (const auto& entry : read_prompt_file(file)) {
    requests.push_back(with_texts_of(job.request, entry, fmt::format("{}:{}", file, entry.line)));
  }
  if (requests.empty()) {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: holds no prompts", file));
  }
  return requests;
}

// What the requests want to have encoded, each once: prompts, then negative ones that are no
// prompts.
std::vector<PromptToEncode> prompts_of(const std::vector<Request>& requests) {
  std::vector<PromptToEncode> prompts;
  std::set<ChunkPrompt> seen;
  for (const auto& request : requests) {
    const auto prompt = chunk_prompt(request);
    if (seen.insert(prompt).second) prompts.push_back({prompt});
  }
  for (const auto& request : requests) {
    if (!request.negative_prompt) continue;
    const auto prompt = negative_chunk_prompt(request);
    if (seen.insert(prompt).second) prompts.push_back({prompt, true});
  }
  return prompts;
}

std::vector<PromptToEncode> prompts_of(const GenerateJob& job, const std::string& argument) {
  if (!argument.empty() && argument.front() == '@') {
    return prompts_of(requests_of(job, argument.substr(1)));
  }
  check_prompt_text("the prompt", argument);
  auto request = job.request;
  request.prompt = argument;
  return prompts_of(std::vector{request});
}

// What a prompt's embeddings will be, without their values.
StoredEmbeds announce(const PromptToEncode& to_encode, const GenerateJob& job,
                      const std::string& encoder, const std::string& loras,
                      const std::string& dtype) {
  const auto& prompt = to_encode.prompt;
  StoredEmbeds embeds;
  embeds.prompt = prompt.text;
  embeds.prompt_2 = prompt.text_2;
  embeds.negative = to_encode.negative;
  embeds.max_sequence_length = prompt.max_sequence_length;
  embeds.encoder = encoder;
  embeds.loras = loras;
  embeds.dtype = dtype;
  embeds.prompt_embeds_shape = {1, prompt.max_sequence_length,
                                job.model.transformer.joint_attention_dim};
  embeds.pooled_shape = {1, job.model.transformer.pooled_projection_dim};
  return embeds;
}

}  // namespace

void run_encode(const CommandLine& line) {
  const GenerateJob job = make_encode_job(line);
  Console console(job.verbosity);
  const auto prompts = prompts_of(job, *line.positional);
  Pipeline pipeline(job.pipeline);
  const auto encoder = kept_identity(encoder_files(job.model), {});
  const auto loras = encoder_loras(job.request.loras, {});
  std::vector<StoredEmbeds> contents;
  for (const auto& prompt : prompts) {
    contents.push_back(announce(prompt, job, encoder, loras, pipeline.dtype_name()));
  }
  PromptEmbedsWriter writer(job.output, contents);
  Progress progress(console, {.model = job.model.name, .device = pipeline.device_name()});
  for (std::size_t first = 0; first < prompts.size(); first += kMostAtOnce) {
    std::vector<Request> requests;
    for (auto i = first; i < std::min(first + kMostAtOnce, prompts.size()); ++i) {
      Request request = job.request;
      request.prompt = prompts[i].prompt.text;
      request.prompt_2 = prompts[i].prompt.text_2;
      request.negative_prompt.reset();  // is one of the prompts
      request.max_sequence_length = prompts[i].prompt.max_sequence_length;
      requests.push_back(std::move(request));
    }
    pipeline.encode(requests, progress, [&](std::size_t, const StoredEmbeds& embeds) {
      writer.add(embeds.prompt_embeds, embeds.pooled);
    });
  }
  writer.finish();
  if (job.json) {
    Json result = {{"output", job.output}, {"prompts", prompts.size()}, {"encoder", encoder}};
    print_json(result);
    return;
  }
  console.info(fmt::format("{}: {} prompts", job.output, prompts.size()));
}

}  // namespace steadyflux::cli
