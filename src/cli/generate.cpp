// steadyflux generate: a prompt becomes a picture file.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>

#include "cli/commands.h"
#include "cli/console.h"
#include "cli/embeds_store.h"
#include "cli/generate.h"
#include "cli/json_output.h"
#include "cli/picture_output.h"
#include "cli/request.h"
#include "cli/run_events.h"
#include "image/file_names.h"
#include "image/output_file.h"
#include "memory/memory_report.h"
#include "pipeline/chunk.h"
#include "pipeline/dtypes.h"

namespace steadyflux::cli {
namespace {

namespace fs = std::filesystem;

// Says what differs from the record in ways that may change bits.
void compare_with_record(const PictureMetadata& now, const PictureMetadata& recorded,
                         Console& console) {
  const auto compare = [&console](const char* what, const auto& then, const auto& here) {
    if (then == here) return;
    console.warning(
        fmt::format("{} differs from the recorded picture's ({} now, {} then): it may "
                    "not repeat bit for bit",
                    what, here, then));
  };
  compare("steadyflux version", recorded.steadyflux_version, now.steadyflux_version);
  compare("libtorch version", recorded.libtorch_version, now.libtorch_version);
  compare("thread count", recorded.num_threads, now.num_threads);
  compare("device", recorded.device, now.device);
  compare("CPU capability", recorded.cpu_capability, now.cpu_capability);
  compare("dtype", recorded.dtype, now.dtype);
  compare("compute", recorded.compute, now.compute);
  compare("model (its files' hash)", recorded.model_hash, now.model_hash);
  if (recorded.init_image && now.init_image) {
    compare("picture to begin from (its file's hash)", recorded.init_image->image_hash,
            now.init_image->image_hash);
    compare("mask (its file's hash)", recorded.init_image->mask_hash, now.init_image->mask_hash);
  }
  if (recorded.condition && now.condition) {
    compare("picture that the model is shown (its file's hash)", recorded.condition->image_hash,
            now.condition->image_hash);
    compare("mask (its file's hash)", recorded.condition->mask_hash, now.condition->mask_hash);
  }
  if (recorded.redux && now.redux) {
    compare("Redux (its files' hash)", recorded.redux->model_hash, now.redux->model_hash);
    const auto& images = now.redux->images;
    for (std::size_t i = 0; i < std::min(recorded.redux->images.size(), images.size()); ++i) {
      compare("picture that is taken up (its file's hash)", recorded.redux->images[i].hash,
              images[i].hash);
    }
  }
  for (std::size_t i = 0; i < std::min(recorded.loras.size(), now.loras.size()); ++i) {
    compare("LoRA (its file's hash)", recorded.loras[i].hash, now.loras[i].hash);
  }
}

void write_memory_report(const GenerateJob& job, const PictureMetadata& metadata,
                         const Progress& progress) {
  if (job.memory_report.empty() || !progress.timeline()) return;
  MemoryTimeline timeline = *progress.timeline();
  if (timeline.title.empty()) {
    timeline.title = fmt::format("{}, {} x {}, {} steps, {} on {}", metadata.model, metadata.width,
                                 metadata.height, metadata.num_inference_steps,
                                 dtype_text(metadata.dtype, metadata.compute), metadata.device);
  }
  const std::string text = memory_report(timeline, memory_report_format(job.memory_report));
  write_file_atomically(job.memory_report,
                        {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
}

Json phases_json(const std::vector<PhaseStats>& phases) {
  Json list = Json::array();
  for (const PhaseStats& phase : phases) list.push_back(phase_stats_json(phase));
  return list;
}

// --prompt-embeds says the prompt, unless one is given.
void take_embedded_prompt(GenerateJob& job, bool has_prompt, bool has_length) {
  if (job.prompt_embeds.empty()) return;
  const auto prompts = embedded_prompts(job.prompt_embeds);
  const auto wanted = chunk_prompt(job.request);
  const auto given = [&](const EmbeddedPrompt& one) {
    return one.prompt == wanted.text && one.prompt_2 == wanted.text_2;
  };
  const auto found =
      has_prompt ? std::find_if(prompts.begin(), prompts.end(), given) : prompts.begin();
  if (!has_prompt && prompts.size() > 1) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{}: holds {} prompts; say which, or use steadyflux batch",
                            job.prompt_embeds.string(), prompts.size()));
  }
  if (found == prompts.end()) return;  // the store says what is wrong
  if (has_length && job.request.max_sequence_length != found->max_sequence_length) {
    throw Error(ErrorKind::kUsage,
                fmt::format("--max-sequence-length {}: {} has {} tokens for this prompt",
                            job.request.max_sequence_length, job.prompt_embeds.string(),
                            found->max_sequence_length));
  }
  job.request.prompt = found->prompt;
  if (job.request.prompt_2.empty()) job.request.prompt_2 = found->prompt_2;
  job.request.max_sequence_length = found->max_sequence_length;
}

Json result_json(const PictureMetadata& metadata, const Json& pictures, const Progress& progress,
                 const Console& console) {
  double seconds = 0;
  for (const PhaseStats& phase : progress.phases()) seconds += phase.seconds;
  // Output, seed and size are those of the first picture, for scripts that make one.
  Json result = {{"output", pictures.at(0).at("output")},
                 {"seed", metadata.seed},
                 {"images", pictures},
                 {"prompt", metadata.prompt},
                 {"width", pictures.at(0).at("width")},
                 {"height", pictures.at(0).at("height")},
                 {"steps", metadata.num_inference_steps}};
  result["guidance"] = metadata.guidance_scale ? Json(*metadata.guidance_scale) : Json(nullptr);
  result["max_sequence_length"] = metadata.max_sequence_length;
  result["model"] = metadata.model;
  result["model_path"] = metadata.model_path;
  add_inputs(result, metadata);
  result["device"] = metadata.device;
  result["dtype"] = metadata.dtype;
  result["compute"] = metadata.compute;
  result["threads"] = metadata.num_threads;
  result["phases"] = phases_json(progress.phases());
  result["seconds"] = seconds;
  result["warnings"] = console.warnings();
  result["steadyflux_version"] = metadata.steadyflux_version;
  result["libtorch_version"] = metadata.libtorch_version;
  return result;
}

}  // namespace

void run_generate(const CommandLine& line) {
  GenerateJob job = make_generate_job(line);
  Console console(job.verbosity);
  for (const std::string& warning : job.warnings) console.warning(warning);
  take_embedded_prompt(job, line.positional || line.from,
                       line.typed.max_sequence_length.has_value());

  Pipeline pipeline(job.pipeline);
  if (job.finds_largest) {
    job.request = pipeline.with_largest_size(std::move(job.request), job.aspect, job.time_limit);
    console.info(fmt::format("the largest size that fits{}: {} x {}",
                             job.time_limit.max_seconds ? " and is quick enough" : "",
                             job.request.width, job.request.height));
  }
  make_pictures(job, pipeline, console);
}

void make_pictures(const GenerateJob& job, Pipeline& pipeline, Console& console) {
  pipeline.check(job.request);
  const PictureMetadata metadata = describe(job, job.request, pipeline, model_hash_of(job));
  if (job.recorded) compare_with_record(metadata, *job.recorded, console);
  console.debug(fmt::format("model {} ({}), {} on {}, {} threads, seed {}", metadata.model,
                            metadata.model_path, dtype_text(metadata.dtype, metadata.compute),
                            metadata.device, metadata.num_threads, metadata.seed));

  Progress progress(console, {.model = metadata.model, .device = metadata.device});
  RunEvents events(job.events, pipeline.device_name(), console, progress);
  const auto store = open_embeds_store(job, pipeline, console);
  Json pictures = Json::array();
  events.started(job.request.num_images, 0);
  try {
    const auto on_image = [&](std::size_t, std::int64_t index, const Image& image) {
      PictureMetadata own = of_image(metadata, image);
      own.seed += static_cast<std::uint64_t>(index);
      const std::string path =
          job.output == "-" ? "-"
                            : numbered_path(job.output, index, job.request.num_images).string();
      write_picture(path, own, image);
      pictures.push_back(
          {{"output", path}, {"seed", own.seed}, {"width", own.width}, {"height", own.height}});
      const auto passes = progress.passes().take(0, index);
      if (passes) pictures.back()["passes"] = passes_json(*passes);
      events.picture(index, 0, path, own.seed, passes);
    };
    pipeline.generate({&job.request, 1}, events.observer(), on_image, store.get());
  } catch (const std::exception& error) {
    events.failed(error, std::nullopt);
    events.finished(static_cast<std::int64_t>(pictures.size()), 0, 1, error);

    // What led to a failure is what a report is wanted for; but the failure says more.
    try {
      write_memory_report(job, metadata, progress);
    } catch (const Error& report_error) {
      console.warning(report_error.what());
    }
    throw;
  }
  events.finished(static_cast<std::int64_t>(pictures.size()), 0, 0);
  write_memory_report(job, metadata, progress);
  if (job.json) {
    print_json(result_json(metadata, pictures, progress, console));
    return;
  }
  console.info(phase_table(progress.phases(), job.verbosity == Verbosity::kVerbose));
  for (const Json& picture : pictures) {
    if (job.output != "-") console.info(picture["output"].get<std::string>());
  }
  if (!job.memory_report.empty()) console.info(job.memory_report.string());
}

}  // namespace steadyflux::cli
