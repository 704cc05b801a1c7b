// steadyflux upscale: a finished picture becomes a larger one, by image to image in tiles.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "cli/commands.h"
#include "cli/console.h"
#include "cli/generate.h"
#include "cli/option_values.h"
#include "cli/picture_output.h"
#include "cli/picture_size.h"
#include "cli/request.h"
#include "image/read_picture.h"

namespace steadyflux::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kDefaultStrength = "0.3";
constexpr std::int64_t kLeastUsualTile = 128;  // pixels; less holds too little of a picture

// The same as a command line of generate.
CommandLine as_generate(const CommandLine& line) {
  const std::string& picture = *line.positional;
  const auto to = line.typed.to ? line.typed.to : line.configured.to;
  if (!to) usage_error("how large? Say it with --to, for example --to 2048 or --to 2x");
  const auto size = read_picture_size(picture);
  const auto goal = parse_goal(*to, {size.width, size.height});
  CommandLine result = line;
  auto& typed = result.typed;
  typed.image = picture;
  typed.width = fmt::format("{}", goal.width);
  typed.height = fmt::format("{}", goal.height);
  if (!typed.strength && !line.configured.strength) typed.strength = kDefaultStrength;
  if (!typed.output && !line.configured.output) typed.output = "upscaled.png";
  if (recorded_settings(picture, /*any_seed=*/false)) result.from = picture;
  result.positional = typed.prompt || result.from ? typed.prompt : std::string();
  return result;
}

}  // namespace

void run_upscale(const CommandLine& line) {
  if (!line.positional) {
    usage_error("no picture given; try: steadyflux upscale picture.png --to 2048");
  }
  GenerateJob job = make_generate_job(as_generate(line));
  job.recorded.reset();  // the settings are its, the picture is another
  std::error_code error;
  if (fs::equivalent(job.output, *line.positional, error)) {
    usage_error(fmt::format("-o {} is the picture itself; give another name", job.output));
  }
  if (!line.typed.tile && !line.configured.tile) {
    job.request.tile =
        std::max({job.model.defaults.width, job.model.defaults.height, kLeastUsualTile});
  }
  Console console(job.verbosity);
  for (const std::string& warning : job.warnings) console.warning(warning);
  Pipeline pipeline(job.pipeline);
  make_pictures(job, pipeline, console);
}

}  // namespace steadyflux::cli
