// Where a run finds embeddings instead of encoding: the cache on the disk, or a file that `encode`
// wrote.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cli/console.h"
#include "cli/request.h"
#include "steadyflux/pipeline.h"

namespace steadyflux::cli {

// By the job's options: --prompt-embeds, --no-cache. May be nullptr. `console` hears, once, what is
// wrong with the cache; both have to outlive the store.
std::unique_ptr<PromptEmbedsStore> open_embeds_store(const GenerateJob& job,
                                                     const Pipeline& pipeline, Console& console);

// The prompts that a file of embeddings holds, in their order, with their number of tokens.
// Negative ones are left out.
struct EmbeddedPrompt {
  std::string prompt;
  std::string prompt_2;  // what T5 read; "": the prompt
  std::int64_t max_sequence_length = 0;
};
std::vector<EmbeddedPrompt> embedded_prompts(const std::filesystem::path& file);

}  // namespace steadyflux::cli
