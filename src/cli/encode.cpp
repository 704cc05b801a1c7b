// steadyflux encode: prompts become embeddings in a file, to make pictures where there is no room
// for the text encoders.
#include <fmt/format.h>

#include <set>

#include "base/utf8.h"
#include "batch/prompt_file.h"
#include "checkpoints/open_model.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/embeds_store.h"
#include "cli/encoder_loras.h"
#include "cli/json_output.h"
#include "cli/request.h"
#include "embeddings/kept_identity.h"
#include "embeddings/prompt_embeds_file.h"
#include "steadyflux/error.h"

namespace steadyflux::cli {
namespace {

// Prompts that go through the encoders together; what is encoded is written before the next.
constexpr std::size_t kMostAtOnce = 64;

struct PromptToEncode {
  std::string text;
  std::int64_t max_sequence_length = 512;
};

std::vector<PromptToEncode> prompts_of(const GenerateJob& job, const std::string& argument) {
  const auto length = job.request.max_sequence_length;
  if (argument.empty() || argument.front() != '@') {
    if (!is_valid_utf8(argument)) throw Error(ErrorKind::kUsage, "the prompt is not UTF-8");
    return {{argument, length}};
  }
  const auto file = argument.substr(1);
  std::vector<PromptToEncode> prompts;
  std::set<std::pair<std::string, std::int64_t>> seen;
  for (const auto& entry : read_prompt_file(file)) {
    auto own = length;
    if (const auto text = entry.options.find("max-sequence-length"); text != entry.options.end()) {
      own = parse_max_sequence_length(text->second, fmt::format("{}:{}", file, entry.line));
    }
    if (seen.emplace(entry.prompt, own).second) prompts.push_back({entry.prompt, own});
  }
  if (prompts.empty()) {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: holds no prompts", file));
  }
  return prompts;
}

// What a prompt's embeddings will be, without their values.
StoredEmbeds announce(const PromptToEncode& prompt, const GenerateJob& job,
                      const std::string& encoder, const std::string& loras,
                      const std::string& dtype) {
  StoredEmbeds embeds;
  embeds.prompt = prompt.text;
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
      request.prompt = prompts[i].text;
      request.max_sequence_length = prompts[i].max_sequence_length;
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
