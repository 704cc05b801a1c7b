// What the options mean: numbers in their ranges, a model folder that exists, an output that can be
// written. All that can be known to be wrong is found here, before any weight is loaded.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "cli/console.h"
#include "cli/options.h"
#include "config/model_config.h"
#include "image/metadata.h"
#include "steadyflux/pipeline.h"

namespace steadyflux::cli {

struct GenerateJob {
  Request request;
  PipelineOptions pipeline;
  ModelFolder model;
  std::string output;                   // a path, or "-" for standard output
  std::filesystem::path memory_report;  // .svg, .html or .json; empty: none
  bool json = false;
  Verbosity verbosity = Verbosity::kNormal;
  std::optional<PictureMetadata> recorded;  // --from
  std::vector<std::string> warnings;
};

// Reads standard input if the prompt is "-". Throws Error.
GenerateJob make_generate_job(const CommandLine& line);

// The same for `steadyflux plan`, where there is neither prompt nor output.
GenerateJob make_plan_job(const CommandLine& line);

Verbosity verbosity_of(const CommandLine& line);

}  // namespace steadyflux::cli
