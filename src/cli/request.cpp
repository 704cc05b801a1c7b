#include "cli/request.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <limits>
#include <utility>

#include "base/utf8.h"
#include "checkpoints/open_model.h"
#include "cli/layers.h"
#include "cli/model_places.h"
#include "cli/option_values.h"
#include "cli/picture_size.h"
#include "cli/prompt_options.h"
#include "cli/request_pictures.h"
#include "cli/sampling_options.h"
#include "image/output_file.h"
#include "image/png.h"
#include "pipeline/condition_check.h"
#include "pipeline/control_lora.h"
#include "steadyflux/error.h"

namespace steadyflux::cli {
namespace {

namespace fs = std::filesystem;

std::string read_prompt(const std::string& positional) {
  if (positional != "-") return positional;
  std::string prompt{std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
  if (!prompt.empty() && prompt.back() == '\n') prompt.pop_back();
  if (!prompt.empty() && prompt.back() == '\r') prompt.pop_back();
  return prompt;
}

PictureMetadata read_recorded(const std::string& path) {
  const auto texts = read_png_text(path);
  const auto it = texts.find(kPngSteadyflux);
  if (it == texts.end()) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: holds no record of steadyflux, so it cannot be repeated", path));
  }
  return metadata_from_json(it->second, path);
}

// The folder that made a recorded picture: where it was, else a model of the same name.
fs::path find_recorded_model(const PictureMetadata& recorded, const std::string& from) {
  std::error_code error;
  if (fs::exists(recorded.model_path, error)) return recorded.model_path;
  for (const fs::path& models : bundled_model_dirs()) {
    if (!recorded.model.empty() && fs::is_directory(models / recorded.model, error)) {
      return models / recorded.model;
    }
  }
  try {
    return resolve_model(recorded.model, {});
  } catch (const Error&) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: was made with the model {} at {}, which is not there; name it "
                            "with -m",
                            from, printable(recorded.model), printable(recorded.model_path)));
  }
}

void check_output(const GenerateJob& job) {
  if (job.output != "-") {
    check_output_path(job.output);
    return;
  }
  if (job.json) usage_error("--json and -o - would both write to standard output; give -o a file");
  if (job.request.num_images > 1) {
    usage_error("-o - takes one picture; give -o a file name for more");
  }
  if (isatty(STDOUT_FILENO) == 1) {
    usage_error("-o - would write a picture into the terminal; redirect it: -o - > out.png");
  }
}

void fill_defaults(GenerateJob& job) {
  Request& request = job.request;
  if (job.recorded) {
    const PictureMetadata& recorded = *job.recorded;
    request.width = recorded.width;
    request.height = recorded.height;
    request.num_inference_steps = recorded.num_inference_steps;
    request.guidance_scale = recorded.guidance_scale.value_or(job.model.defaults.guidance_scale);
    request.seed = recorded.seed;
    request.max_sequence_length = recorded.max_sequence_length;
    if (const auto& stages = recorded.progressive) {
      request.progressive = Progressive{stages->base, stages->strength};
    }
    request.tile = recorded.tile;
    request.sampling = recorded.sampling;
    request.loras.clear();
    for (const auto& lora : recorded.loras) {
      request.loras.push_back({checked_lora(lora.path), lora.strength});
    }
    return;
  }
  const GenerationDefaults& defaults = job.model.defaults;
  request.width = defaults.width;
  request.height = defaults.height;
  request.num_inference_steps = defaults.num_inference_steps;
  request.guidance_scale = defaults.guidance_scale;
  request.max_sequence_length = defaults.max_sequence_length;
}

// --max-seconds and --tflops, which have a meaning only where a size is to be found.
void apply_time_limit(GenerateJob& job, const Layers& layers) {
  const auto seconds = layers.other(&Options::max_seconds), tflops = layers.other(&Options::tflops);
  if (seconds) job.time_limit.max_seconds = parse_positive("max-seconds", *seconds);
  if (tflops) job.time_limit.tflops = parse_positive("tflops", *tflops);
  if (seconds && !job.finds_largest) {
    usage_error(
        "--max-seconds without a size to find: it goes with --size auto or plan --max-size");
  }
  if (tflops && !seconds) usage_error("--tflops without --max-seconds has no meaning");
}

// --size and --aspect, or --width and --height. A size on the command line goes before sides in a
// configuration file.
void apply_size(GenerateJob& job, const Layers& layers) {
  Request& request = job.request;
  const auto size = layers.picture(&Options::size), aspect = layers.picture(&Options::aspect);
  const auto width = layers.picture(&Options::width), height = layers.picture(&Options::height);
  if (width) request.width = parse_side("width", *width);
  if (height) request.height = parse_side("height", *height);
  if (aspect) job.aspect = parse_aspect(*aspect);
  if (job.finds_largest || (size && *size == "auto")) {
    job.finds_largest = true;
    if (!aspect) job.aspect = {request.width, request.height};
    for (const char* name : {"image", "reference", "control-image"}) {
      if (!layers.picture(find_value_option(name))) continue;
      usage_error(
          fmt::format("--size auto with --{}: give the size, or none for the picture's own", name));
    }
    return;
  }
  if (!size && !aspect) return;
  if (layers.typed(&Options::width) || layers.typed(&Options::height)) {
    usage_error(fmt::format("--{} with --width or --height: give one or the other",
                            size ? "size" : "aspect"));
  }
  const auto spec =
      size ? parse_size(*size, aspect ? &job.aspect : nullptr)
           : SizeSpec{.is_auto = false,
                      .sides = sides_of_area(
                          job.aspect, static_cast<double>(request.width * request.height), 16)};
  request.width = spec.sides.width;
  request.height = spec.sides.height;
}

constexpr std::int64_t kMostUsualBase = 512;  // pixels

void apply_progressive(GenerateJob& job, const Layers& layers) {
  const auto base = layers.picture(&Options::base_size);
  const bool wanted = layers.picture(&Options::progressive) || base;
  auto& progressive = job.request.progressive;
  if (layers.picture(&Options::image)) {
    if (wanted) {
      usage_error("--progressive with --image: its first stage begins from noise; leave one out");
    }
    progressive.reset();  // the record's
  }
  if (!wanted && !progressive) return;
  if (!progressive) progressive.emplace();
  const auto& usual = job.model.defaults;
  if (base) {
    progressive->base = parse_side("base-size", *base);
  } else if (!job.recorded || !job.recorded->progressive) {
    progressive->base = std::min(kMostUsualBase, std::max<std::int64_t>(usual.width, usual.height));
  }
  if (const auto text = layers.picture(&Options::strength)) {
    progressive->strength = parse_strength(*text);
  }
}

// Everything that needs no model. Values that are not given stay as they are.
void apply_options(GenerateJob& job, const Layers& layers) {
  Request& request = job.request;
  const auto number = [&](std::optional<std::string> Options::*option, const char* name,
                          std::int64_t highest, std::int64_t& target) {
    if (const auto text = layers.picture(option)) target = parse_in_range(name, *text, 1, highest);
  };
  apply_prompt_options(request, layers);
  apply_progressive(job, layers);
  apply_size(job, layers);
  apply_time_limit(job, layers);
  apply_pictures(job, layers);
  if (const auto text = layers.picture(&Options::tile)) request.tile = parse_side("tile", *text);
  number(&Options::steps, "steps", 1000, request.num_inference_steps);
  number(&Options::num_images, "num-images", 10000, request.num_images);
  apply_sampling(job, layers);
  number(&Options::max_sequence_length, "max-sequence-length", 512, request.max_sequence_length);
  if (const auto text = layers.picture(&Options::guidance)) {
    request.guidance_scale = parse_scale("guidance", *text);
  }
  if (const auto text = layers.picture(&Options::seed)) {
    request.seed = parse_seed(*text);
    job.has_random_seed = *text == "-1";
  }
  if (const auto text = layers.picture(&Options::lora)) request.loras = parse_loras(*text);
  const auto last = static_cast<std::uint64_t>(request.num_images - 1);
  if (request.seed > std::numeric_limits<std::uint64_t>::max() - last) {
    usage_error(fmt::format("--seed {} with --num-images {}: the last seed would be above 2^64-1",
                            request.seed, request.num_images));
  }
  if (request.width * request.height > kMostPixels) {
    usage_error(fmt::format("{} x {} is larger than the {} pixels a picture may have",
                            request.width, request.height, kMostPixels));
  }
  std::int64_t threads = job.recorded ? job.recorded->num_threads : 0;
  number(&Options::threads, "threads", 1024, threads);
  job.pipeline.num_threads = static_cast<int>(threads);
  job.pipeline.dtype =
      layers.picture(&Options::dtype).value_or(job.recorded ? job.recorded->dtype : "auto");
  check_one_of("dtype", job.pipeline.dtype, {"auto", "bf16", "fp16", "fp32"});
  job.pipeline.compute =
      layers.picture(&Options::compute).value_or(job.recorded ? job.recorded->compute : "auto");
  check_one_of("compute", job.pipeline.compute, {"auto", "bf16", "int8", "fp8"});
  const bool made_on_cpu = job.recorded && job.recorded->device == "cpu";
  job.pipeline.device = layers.picture(&Options::device).value_or(made_on_cpu ? "cpu" : "auto");
  check_device(job.pipeline.device);
}

// Pictures record nothing about memory: their bytes do not depend on it.
void apply_memory_options(GenerateJob& job, const Layers& layers) {
  PipelineOptions& memory = job.pipeline;
  if (const auto text = layers.other(&Options::max_vram)) {
    memory.max_vram = parse_limit("max-vram", *text);
  }
  if (const auto text = layers.other(&Options::max_ram)) {
    memory.max_ram = parse_limit("max-ram", *text);
  }
  memory.vae_tiling = layers.other(&Options::vae_tiling).value_or(memory.vae_tiling);
  check_one_of("vae-tiling", memory.vae_tiling, {"auto", "on", "off"});
  memory.cuda_graphs = layers.other(&Options::cuda_graphs).value_or(memory.cuda_graphs);
  check_one_of("cuda-graphs", memory.cuda_graphs, {"on", "off"});
  memory.on_pressure = layers.other(&Options::on_pressure).value_or(memory.on_pressure);
  check_one_of("on-pressure", memory.on_pressure, {"replan", "warn", "abort"});
  if (const auto text = layers.other(&Options::memory_report)) {
    job.memory_report = parse_report(*text);
  }
}

// What happens around the making of pictures.
void apply_other_options(GenerateJob& job, const CommandLine& line, const Layers& layers) {
  job.json = line.typed.json || line.configured.json;
  job.verbosity = verbosity_of(line);
  job.use_cache = !line.typed.no_cache && !line.configured.no_cache;
  job.events = layers.other(&Options::events).value_or("");
  job.prompt_embeds = layers.other(&Options::prompt_embeds).value_or("");
  if (const auto text = layers.other(&Options::chunk_size)) {
    job.chunk_size = static_cast<std::size_t>(parse_in_range("chunk-size", *text, 1, 10000));
  }
}

// Opens the model and applies the options again, now to its defaults.
void take_model(GenerateJob& job, const Layers& layers, const fs::path& path,
                bool encode_only = false) {
  job.pipeline.model = path;
  const auto part = [&](const char* name, bool recorded_is_meant) -> fs::path {
    if (const auto given = layers.picture(find_value_option(name))) {
      return std::string_view(name) == "redux" ? resolve_redux(*given) : part_path(name, *given);
    }
    if (!job.recorded || !recorded_is_meant) return {};
    const auto found = job.recorded->model_parts.find(name);
    return found == job.recorded->model_parts.end() ? "" : found->second;
  };
  // With another model the recorded picture's parts are not meant; but Redux goes with any.
  const bool same_model = !layers.picture(&Options::model);
  const bool takes_up = !job.request.redux_images.empty();
  job.pipeline.parts = {.vae = part("vae", same_model),
                        .clip_l = part("clip-l", same_model),
                        .t5 = part("t5", same_model),
                        .tokenizers = part("tokenizers", same_model),
                        .redux = part("redux", takes_up),
                        .image_encoder = part("image-encoder", takes_up),
                        .encoders_needed = job.prompt_embeds.empty(),
                        .encode_only = encode_only};
  job.model = open_model(path, job.pipeline.parts);
  const std::uint64_t seed = job.request.seed;
  fill_defaults(job);
  apply_options(job, layers);
  if (layers.picture(&Options::seed)) job.request.seed = seed;  // a random one is drawn once
}

// A file to be written at the end, whose name must have this extension.
fs::path parse_target(const char* name, const std::string& text, const char* extension) {
  const fs::path path = text;
  if (path.extension() != extension) {
    usage_error(
        fmt::format("--{} {}: expected a file name that ends in {}", name, text, extension));
  }
  return path;
}

}  // namespace

fs::path part_path(const char* name, const std::string& text) {
  if (text.empty()) {
    usage_error(fmt::format("--{}: the path is empty; give one, or leave --{} out", name, name));
  }
  return text;
}

void check_target(const char* option, const fs::path& path) {
  if (path.empty()) return;
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  const auto fail = [&](const std::string& what) {
    throw Error(ErrorKind::kIo, fmt::format("--{} {}: {}", option, path.string(), what));
  };
  std::error_code error;
  if (!fs::is_directory(folder, error)) fail(fmt::format("no folder {}", folder.string()));
  if (fs::is_directory(path, error)) fail("is a folder");
  if (access(folder.c_str(), W_OK) != 0) fail("the folder cannot be written to");
}

Verbosity verbosity_of(const CommandLine& line) {
  if (line.typed.quiet) return Verbosity::kQuiet;
  if (line.typed.verbose) return Verbosity::kVerbose;
  if (line.configured.quiet) return Verbosity::kQuiet;
  return line.configured.verbose ? Verbosity::kVerbose : Verbosity::kNormal;
}

GenerateJob make_generate_job(const CommandLine& line) {
  const bool has_embeds = line.typed.prompt_embeds || line.configured.prompt_embeds;
  const auto& redux = line.typed.redux_image ? line.typed.redux_image : line.configured.redux_image;
  if (!line.positional && !line.from && !has_embeds && (!redux || redux->empty())) {
    usage_error("no prompt given; try: steadyflux \"a red apple\", or steadyflux --help");
  }
  GenerateJob job;
  if (line.from) {
    job.recorded = read_recorded(*line.from);
    take_recorded_prompts(job.request, *job.recorded);
  }
  const bool says_none = job.recorded && job.recorded->redux && !job.recorded->redux->has_prompt;
  job.request.has_prompt = line.positional || has_embeds || (line.from && !says_none);
  const Layers layers(line, job.recorded.has_value());
  apply_other_options(job, line, layers);
  job.output = layers.other(&Options::output).value_or("out.png");
  apply_options(job, layers);  // first without a model: wrong options are found even if it is bad
  apply_memory_options(job, layers);
  check_output(job);
  check_target("memory-report", job.memory_report);

  const auto model = layers.picture(&Options::model);
  take_model(job, layers,
             job.recorded && !model ? find_recorded_model(*job.recorded, *line.from)
                                    : resolve_model(model, bundled_model_dirs()));
  if (line.positional) {
    job.request.prompt = read_prompt(*line.positional);
    // What a record says T5 read is not meant for another prompt.
    if (job.recorded && !layers.picture(&Options::prompt_2)) job.request.prompt_2.clear();
  }
  check_prompt_text("the prompt", job.request.prompt);
  if (!job.request.has_prompt && !job.request.prompt_2.empty()) {
    usage_error("--prompt-2 without a prompt: give what CLIP reads too");
  }
  job.warnings = guidance_warnings(job.request);
  if (layers.picture(&Options::guidance) && !job.model.transformer.guidance_embeds) {
    job.warnings.push_back(
        fmt::format("--guidance has no effect: {} has no guidance embedding", job.model.name));
  }
  return job;
}

GenerateJob make_encode_job(const CommandLine& line) {
  GenerateJob job;
  const Layers layers(line, false);
  if (!line.positional) {
    usage_error("no prompt given; try: steadyflux encode \"a red apple\" -o apple.safetensors");
  }
  apply_other_options(job, line, layers);
  job.output = layers.other(&Options::output).value_or("embeds.safetensors");
  if (job.output == "-") usage_error("-o -: embeddings go into a file; give its name");
  check_target("output", job.output);
  apply_options(job, layers);
  apply_memory_options(job, layers);
  take_model(job, layers, resolve_model(layers.other(&Options::model), bundled_model_dirs()),
             /*encode_only=*/true);
  return job;
}

BatchJob make_batch_job(const CommandLine& line) {
  BatchJob job;
  GenerateJob& defaults = job.defaults;
  const Layers layers(line, false);
  apply_other_options(defaults, line, layers);
  if (!line.positional && defaults.prompt_embeds.empty()) {
    usage_error("no prompt file given; try: steadyflux batch prompts.txt -o out");
  }
  job.source = line.positional.value_or("");
  defaults.output = layers.other(&Options::output).value_or("out");
  job.keep_going = line.typed.keep_going || line.configured.keep_going;
  job.overwrite = line.typed.overwrite || line.configured.overwrite;
  const auto order = layers.other(&Options::order).value_or("phase");
  check_one_of("order", order, {"phase", "prompt"});
  job.prompt_by_prompt = order == "prompt";
  if (const auto text = layers.other(&Options::checkpoint_every)) {
    job.checkpoint_every = parse_in_range("checkpoint-every", *text, 1, 1000);
  }
  if (const auto text = layers.other(&Options::contact_sheet)) {
    job.contact_sheet = parse_target("contact-sheet", *text, ".png");
  }
  if (const auto text = layers.other(&Options::gallery)) {
    job.gallery = parse_target("gallery", *text, ".html");
  }
  job.rendezvous = layers.other(&Options::rendezvous);
  apply_options(defaults, layers);
  if (defaults.finds_largest) {
    usage_error(
        "--size auto in a batch: it would depend on the memory that is free at the moment; "
        "see steadyflux plan --max-size, and give that size");
  }
  apply_memory_options(defaults, layers);
  take_model(defaults, layers, resolve_model(layers.other(&Options::model), bundled_model_dirs()));
  if (layers.picture(&Options::guidance) && !defaults.model.transformer.guidance_embeds) {
    defaults.warnings.push_back(
        fmt::format("--guidance has no effect: {} has no guidance embedding", defaults.model.name));
  }
  return job;
}

BatchEntry make_batch_entry(const CommandLine& line, const BatchJob& job, const PromptEntry& entry,
                            const std::string& place) {
  CommandLine own = line;
  BatchEntry result;
  for (const auto& [name, text] : entry.options) {
    if (name == "output") {
      result.output = text;
      continue;
    }
    const auto option = find_value_option(name);
    if (option == nullptr) throw Error(ErrorKind::kInternal, "no option --" + name);
    own.typed.*option = text;
  }
  if (entry.options.contains("width") || entry.options.contains("height")) {
    own.typed.size.reset();
    own.typed.aspect.reset();
  }
  if (entry.options.contains("negative-prompt") && !entry.options.contains("negative-prompt-2")) {
    own.typed.negative_prompt_2.reset();
    own.configured.negative_prompt_2.reset();
  }
  // Of steps and sigmas, those of the entry.
  if (entry.options.contains("sigmas") && !entry.options.contains("steps")) own.typed.steps.reset();
  if (entry.options.contains("steps") && !entry.options.contains("sigmas")) {
    own.typed.sigmas.reset();
  }
  GenerateJob filled = job.defaults;
  try {
    apply_options(filled, Layers(own, false));
  } catch (const Error& error) {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: {}", place, error.what()));
  }
  result.request = filled.request;
  result.request.prompt = entry.prompt;
  result.has_random_seed = filled.has_random_seed;
  return result;
}

Request with_texts_of(const Request& defaults, const PromptEntry& entry, const std::string& place) {
  CommandLine own;
  for (const char* name :
       {"prompt-2", "negative-prompt", "negative-prompt-2", "max-sequence-length"}) {
    const auto text = entry.options.find(name);
    if (text != entry.options.end()) own.typed.*find_value_option(name) = text->second;
  }
  Request request = defaults;
  request.prompt = entry.prompt;
  try {
    apply_prompt_options(request, Layers(own, false));
    if (const auto& text = own.typed.max_sequence_length) {
      request.max_sequence_length = parse_in_range("max-sequence-length", *text, 1, 512);
    }
  } catch (const Error& error) {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: {}", place, error.what()));
  }
  return request;
}

GenerateJob make_plan_job(const CommandLine& line) {
  GenerateJob job;
  const Layers layers(line, false);
  apply_other_options(job, line, layers);
  job.finds_largest = line.typed.max_size || line.configured.max_size;
  apply_options(job, layers);  // as above
  apply_memory_options(job, layers);
  if (const auto text = layers.other(&Options::prompts)) {
    job.num_prompts = static_cast<std::size_t>(parse_in_range("prompts", *text, 1, 1000000));
  }
  take_model(job, layers, resolve_model(layers.other(&Options::model), bundled_model_dirs()));
  job.warnings = guidance_warnings(job.request);
  const std::int64_t multiple = 2 * job.model.vae.scale_factor();
  for (const auto& [name, side] :
       {std::pair{"width", job.request.width}, std::pair{"height", job.request.height}}) {
    if (side % multiple != 0) {
      usage_error(fmt::format("{} {} is not a multiple of {}, as {} needs it", name, side, multiple,
                              job.model.name));
    }
  }
  job.model = with_loras(job.model, job.request.loras);
  assume_pictures(job);
  check_condition(job.model, job.request);
  return job;
}

}  // namespace steadyflux::cli
