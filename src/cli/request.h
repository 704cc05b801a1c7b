// What the options mean: numbers in their ranges, a model folder that exists, an output that can be
// written. All that can be known to be wrong is found here, before any weight is loaded.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "batch/prompt_file.h"
#include "cli/console.h"
#include "cli/options.h"
#include "config/model_config.h"
#include "image/metadata.h"
#include "memory/largest_size.h"
#include "steadyflux/pipeline.h"

namespace steadyflux::cli {

struct GenerateJob {
  Request request;
  PipelineOptions pipeline;
  FluxModel model;
  std::string output;                   // a path, or "-" for standard output
  std::filesystem::path memory_report;  // .svg, .html or .json; empty: none
  std::string events;                   // --events; empty: none
  std::filesystem::path prompt_embeds;  // --prompt-embeds; empty: none
  bool use_cache = true;
  bool has_random_seed = false;  // --seed -1
  std::size_t num_prompts = 1;   // plan --prompts
  // --size auto, plan --max-size: the largest picture of this aspect that fits is still to be
  // found.
  bool finds_largest = false;
  Aspect aspect = {};
  TimeLimit time_limit;  // --max-seconds, --tflops; then too
  // At most so many prompts in one go. More would save little, and make the first picture wait.
  std::size_t chunk_size = 16;
  bool json = false;
  Verbosity verbosity = Verbosity::kNormal;
  std::optional<PictureMetadata> recorded;  // --from
  std::vector<std::string> warnings;
};

// Reads standard input if the prompt is "-". Throws Error.
GenerateJob make_generate_job(const CommandLine& line);

// The same for `steadyflux plan`, where there is neither prompt nor output.
GenerateJob make_plan_job(const CommandLine& line);

// The same for `steadyflux encode`; the prompt, or @FILE, stays as it is.
GenerateJob make_encode_job(const CommandLine& line);

// `defaults` with what an entry says of its texts, and how many T5 tokens they may have. Throws
// Error{kBadInput} that begins with `place`.
Request with_texts_of(const Request& defaults, const PromptEntry& entry, const std::string& place);

struct BatchJob {
  GenerateJob defaults;  // for what an entry does not say; output is the folder
  std::string source;    // the prompt file; "-": standard input; "": --prompt-embeds alone
  bool prompt_by_prompt = false;
  bool keep_going = false;
  bool overwrite = false;
  std::int64_t checkpoint_every = 0;  // steps; 0: never
  std::filesystem::path contact_sheet;
  std::filesystem::path gallery;
  std::optional<std::string> rendezvous;
};
BatchJob make_batch_job(const CommandLine& line);

struct BatchEntry {
  Request request;
  std::string output;  // as the entry says it; "" if it does not
  bool has_random_seed = false;
};
// Throws Error{kBadInput} that begins with `place`, such as "prompts.txt:3".
BatchEntry make_batch_entry(const CommandLine& line, const BatchJob& job, const PromptEntry& entry,
                            const std::string& place);

Verbosity verbosity_of(const CommandLine& line);

// What --vae, --clip-l, --t5 or --tokenizers says. Throws Error{kUsage} if that is nothing.
std::filesystem::path part_path(const char* name, const std::string& text);

// Like check_output_path, which knows pictures only: throws Error{kIo} that names the option if the
// file cannot be written. An empty path is none.
void check_target(const char* option, const std::filesystem::path& path);

}  // namespace steadyflux::cli
