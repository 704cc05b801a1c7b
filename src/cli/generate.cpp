// steadyflux generate: a prompt becomes a picture file.
#include <ATen/Version.h>
#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>

#include "cli/commands.h"
#include "cli/console.h"
#include "cli/json_output.h"
#include "cli/request.h"
#include "cli/signals.h"
#include "cli/version.h"
#include "image/file_names.h"
#include "image/jpeg.h"
#include "image/metadata.h"
#include "image/model_identity.h"
#include "image/output_file.h"
#include "image/png.h"
#include "memory/memory_report.h"

namespace steadyflux::cli {
namespace {

namespace fs = std::filesystem;

PictureMetadata describe(const GenerateJob& job, const Pipeline& pipeline) {
  const Request& request = job.request;
  PictureMetadata metadata{
      .prompt = request.prompt,
      .width = request.width,
      .height = request.height,
      .num_inference_steps = request.num_inference_steps,
      .guidance_scale = std::nullopt,
      .seed = request.seed,
      .max_sequence_length = request.max_sequence_length,
      .model = job.model.name,
      .model_path = fs::absolute(job.pipeline.model).lexically_normal().string(),
      .model_hash = model_identity(job.pipeline.model),
      .dtype = pipeline.dtype_name(),
      .device = pipeline.device_name(),
      .num_threads = pipeline.num_threads(),
      .steadyflux_version = steadyflux_version(),
      .libtorch_version = libtorch_version(),
      .cpu_capability = at::get_cpu_capability(),
  };
  if (job.model.transformer.guidance_embeds) metadata.guidance_scale = request.guidance_scale;
  return metadata;
}

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
  compare("model (its files' hash)", recorded.model_hash, now.model_hash);
}

// Gives the path that was written.
std::string write_picture(const GenerateJob& job, const PictureMetadata& metadata,
                          std::int64_t index, const Image& image) {
  const std::string parameters = a1111_parameters(metadata);
  if (job.output == "-") {
    write_stdout(encode_png(image.width, image.height, image.rgb,
                            {.parameters = parameters, .steadyflux = to_json(metadata)}));
    return "-";
  }
  const fs::path path = numbered_path(job.output, index, job.request.num_images);
  if (picture_format(path) == PictureFormat::kJpeg) {
    write_file_atomically(path, encode_jpeg(image.width, image.height, image.rgb, parameters));
  } else {
    write_file_atomically(path,
                          encode_png(image.width, image.height, image.rgb,
                                     {.parameters = parameters, .steadyflux = to_json(metadata)}));
  }
  return path.string();
}

void write_memory_report(const GenerateJob& job, const PictureMetadata& metadata,
                         const Progress& progress) {
  if (job.memory_report.empty() || !progress.timeline()) return;
  MemoryTimeline timeline = *progress.timeline();
  if (timeline.title.empty()) {
    timeline.title =
        fmt::format("{}, {} x {}, {} steps, {} on {}", metadata.model, metadata.width,
                    metadata.height, metadata.num_inference_steps, metadata.dtype, metadata.device);
  }
  const std::string text = memory_report(timeline, memory_report_format(job.memory_report));
  write_file_atomically(job.memory_report,
                        {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
}

Json phases_json(const std::vector<PhaseStats>& phases) {
  Json list = Json::array();
  for (const PhaseStats& phase : phases) {
    list.push_back({{"name", phase.name},
                    {"seconds", phase.seconds},
                    {"load_seconds", phase.load_seconds},
                    {"device_peak_allocated", phase.device_peak_allocated},
                    {"device_peak_reserved", phase.device_peak_reserved},
                    {"peak_rss", phase.peak_rss},
                    {"peak_rss_anon", phase.peak_rss_anon},
                    {"peak_rss_file", phase.peak_rss_file},
                    {"major_faults", phase.major_faults},
                    {"disk_read", phase.disk_read},
                    {"swap", phase.swap},
                    {"predicted_device", phase.predicted_device},
                    {"predicted_ram", phase.predicted_ram}});
  }
  return list;
}

Json result_json(const PictureMetadata& metadata, const Json& pictures, const Progress& progress,
                 const Console& console) {
  double seconds = 0;
  for (const PhaseStats& phase : progress.phases()) seconds += phase.seconds;
  // output and seed are those of the first picture, for scripts that make one.
  Json result = {{"output", pictures.at(0).at("output")},
                 {"seed", metadata.seed},
                 {"images", pictures},
                 {"prompt", metadata.prompt},
                 {"width", metadata.width},
                 {"height", metadata.height},
                 {"steps", metadata.num_inference_steps}};
  result["guidance"] = metadata.guidance_scale ? Json(*metadata.guidance_scale) : Json(nullptr);
  result["max_sequence_length"] = metadata.max_sequence_length;
  result["model"] = metadata.model;
  result["model_path"] = metadata.model_path;
  result["device"] = metadata.device;
  result["dtype"] = metadata.dtype;
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
  const GenerateJob job = make_generate_job(line);
  Console console(job.verbosity);
  for (const std::string& warning : job.warnings) console.warning(warning);

  Pipeline pipeline(job.pipeline);
  pipeline.check(job.request);
  const PictureMetadata metadata = describe(job, pipeline);
  if (job.recorded) compare_with_record(metadata, *job.recorded, console);
  console.debug(fmt::format("model {} ({}), {} on {}, {} threads, seed {}", metadata.model,
                            metadata.model_path, metadata.dtype, metadata.device,
                            metadata.num_threads, metadata.seed));

  Progress progress(console, {.model = metadata.model, .device = metadata.device});
  Json pictures = Json::array();
  try {
    pipeline.generate(job.request, progress, [&](std::int64_t index, const Image& image) {
      PictureMetadata own = metadata;
      own.seed += static_cast<std::uint64_t>(index);
      const std::string path = write_picture(job, own, index, image);
      pictures.push_back({{"output", path}, {"seed", own.seed}});
    });
  } catch (...) {
    // What led to a failure is what a report is wanted for; but the failure says more.
    try {
      write_memory_report(job, metadata, progress);
    } catch (const Error& error) {
      console.warning(error.what());
    }
    throw;
  }
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
