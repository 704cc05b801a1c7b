// The command line through CLI11, one CLI::App per command. Which command is meant is decided
// first: the first argument that is neither an option nor an option's value, if it is a command's
// name; otherwise it is the prompt of `generate`. So options may stand before and after the prompt.
#include "cli/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <sstream>

#include "base/file.h"
#include "base/utf8.h"
#include "cli/version.h"
#include "steadyflux/error.h"

namespace steadyflux::cli {
namespace {

// Which commands an option belongs to.
constexpr unsigned kForGenerate = 1;
constexpr unsigned kForPlan = 2;
constexpr unsigned kForDoctor = 4;
constexpr unsigned kForBatch = 8;
constexpr unsigned kForEncode = 16;
constexpr unsigned kForInspect = 32;
constexpr unsigned kForCache = 64;
constexpr unsigned kForQuantize = 128;
constexpr unsigned kForUpscale = 256;
constexpr unsigned kForNewPictures = kForGenerate | kForBatch;
constexpr unsigned kForPictures = kForNewPictures | kForUpscale;
constexpr unsigned kForModelParts = kForPictures | kForEncode | kForPlan | kForDoctor;
constexpr unsigned kForAll = ~0u;

const char kPictureGroup[] = "Options";
const char kBatchGroup[] = "Batch";
const char kMemoryGroup[] = "Memory (SIZE: 6GiB, 1.5GiB, 500MB)";

struct ValueOption {
  std::optional<std::string> Options::*value;
  unsigned commands;
  const char* group;       // the heading in --help
  const char* name;        // the long name, without dashes: the key in a --config file
  const char* short_name;  // "-W", or "" if there is none
  const char* placeholder;
  const char* description;
  bool repeatable = false;  // all values count, one a line
};

struct Flag {
  bool Options::*value;
  unsigned commands;
  const char* group;
  const char* name;
  const char* short_name;
  const char* description;
};

constexpr std::array kValueOptions = {
    ValueOption{&Options::to, kForUpscale, kPictureGroup, "to", "", "SIZE",
                "the longer side in pixels, WIDTHxHEIGHT, or how many times as large: 2x"},
    ValueOption{&Options::prompt, kForUpscale, kPictureGroup, "prompt", "", "TEXT",
                "what the picture shows (default: what its record says, else nothing)"},
    ValueOption{&Options::type, kForQuantize, kPictureGroup, "type", "", "TYPE",
                "what the weights become: q8_0, q6_k, q5_k, q4_k, q5_1, q5_0, q4_1, q4_0, bf16, "
                "f16 or fp8"},
    ValueOption{&Options::component, kForQuantize, kPictureGroup, "component", "", "WHICH",
                "transformer or t5, where SOURCE has both (default: transformer)"},
    ValueOption{&Options::output, kForGenerate | kForDoctor, kPictureGroup, "output", "-o",
                "FILE|-", "the picture, .png or .jpg; - is standard output (default: out.png)"},
    ValueOption{&Options::output, kForUpscale, kPictureGroup, "output", "-o", "FILE|-",
                "the new picture, .png or .jpg; - is standard output (default: upscaled.png)"},
    ValueOption{&Options::output, kForBatch, kPictureGroup, "output", "-o", "DIR",
                "the folder for the pictures and journal.jsonl, made if need be (default: out)"},
    ValueOption{&Options::output, kForEncode, kPictureGroup, "output", "-o", "FILE.safetensors",
                "where the embeddings go (default: embeds.safetensors)"},
    ValueOption{&Options::model, kForModelParts, kPictureGroup, "model", "-m", "MODEL",
                "a diffusers folder, a single file (.safetensors, .gguf) or a hub id in the local "
                "cache (default: $STEADYFLUX_MODEL, else the bundled model)"},
    ValueOption{&Options::vae, kForModelParts, kPictureGroup, "vae", "", "PATH",
                "the VAE, a file or a component folder (default: in MODEL or beside it)"},
    ValueOption{&Options::clip_l, kForModelParts, kPictureGroup, "clip-l", "", "PATH",
                "the CLIP text encoder, likewise"},
    ValueOption{&Options::t5, kForModelParts, kPictureGroup, "t5", "", "PATH",
                "the T5 encoder, likewise"},
    ValueOption{&Options::tokenizers, kForModelParts, kPictureGroup, "tokenizers", "", "DIR",
                "the folder of tokenizer/ and tokenizer_2/, likewise"},
    ValueOption{&Options::lora, kForPictures | kForEncode | kForPlan, kPictureGroup, "lora", "",
                "FILE[:SCALE]", "a LoRA and how strongly it counts (default: 1); may be repeated",
                true},
    ValueOption{&Options::prompt_2, kForPictures | kForEncode, kPictureGroup, "prompt-2", "",
                "TEXT", "what T5 reads; CLIP reads the prompt (default: both read the prompt)"},
    ValueOption{&Options::negative_prompt, kForPictures | kForEncode | kForPlan, kPictureGroup,
                "negative-prompt", "", "TEXT",
                "what the picture should not be like, with --true-cfg-scale; may be empty"},
    ValueOption{&Options::negative_prompt_2, kForPictures | kForEncode, kPictureGroup,
                "negative-prompt-2", "", "TEXT", "what T5 reads of that, likewise"},
    ValueOption{&Options::true_cfg_scale, kForPictures | kForPlan, kPictureGroup, "true-cfg-scale",
                "", "X",
                "how far to go away from the negative prompt; above 1 a step takes twice as long "
                "(default: 1, not at all)"},
    ValueOption{&Options::width, kForNewPictures | kForPlan, kPictureGroup, "width", "-W", "PIXELS",
                "a multiple of 16"},
    ValueOption{&Options::height, kForNewPictures | kForPlan, kPictureGroup, "height", "-H",
                "PIXELS", "a multiple of 16"},
    ValueOption{&Options::size, kForNewPictures | kForPlan, kPictureGroup, "size", "",
                "WxH|Xmp|auto",
                "both sides in one, an area (1mp is 1024 x 1024 pixels), or the largest that fits"},
    ValueOption{&Options::aspect, kForNewPictures | kForPlan, kPictureGroup, "aspect", "", "W:H",
                "the picture's shape, such as 16:9, for an area or auto"},
    ValueOption{&Options::max_seconds, kForGenerate | kForPlan, kPictureGroup, "max-seconds", "",
                "X", "with the largest size: one that takes no longer for a picture, about"},
    ValueOption{&Options::tflops, kForGenerate | kForPlan, kPictureGroup, "tflops", "", "X",
                "with --max-seconds: what the machine computes, 10^12 operations a second "
                "(default: measured)"},
    ValueOption{
        &Options::image, kForNewPictures | kForPlan, kPictureGroup, "image", "", "FILE",
        "begin from this picture (PNG, JPEG, WebP), resized to width x height; without them its "
        "own size counts. FLUX.1-Fill: the picture to fill. FLUX.1-Kontext: as --reference"},
    ValueOption{&Options::mask, kForNewPictures | kForPlan, kPictureGroup, "mask", "", "FILE",
                "with --image: paint anew where this picture is light, keep the rest"},
    ValueOption{&Options::strength, kForPictures | kForPlan, kPictureGroup, "strength", "", "X",
                "with --image: how far it may change, above 0 to 1 (default: 0.6); with "
                "--progressive and upscale: likewise what was enlarged (default: 0.3)"},
    ValueOption{&Options::reference, kForNewPictures | kForPlan, kPictureGroup, "reference", "",
                "FILE", "FLUX.1-Kontext: the picture that the prompt is about"},
    ValueOption{
        &Options::reference_size, kForNewPictures | kForPlan, kPictureGroup, "reference-size", "",
        "WHICH",
        "preferred: the nearest of Kontext's resolutions; own: its own (default: preferred)"},
    ValueOption{
        &Options::control_image, kForNewPictures | kForPlan, kPictureGroup, "control-image", "",
        "FILE",
        "FLUX.1-Depth, -Canny, or dev with their LoRA: a depth map or edges, made beforehand, "
        "resized as --image"},
    ValueOption{
        &Options::redux, kForPictures | kForPlan, kPictureGroup, "redux", "", "REDUX",
        "FLUX.1-Redux, a diffusers folder, a file or a hub id as of MODEL, for --redux-image"},
    ValueOption{&Options::image_encoder, kForPictures | kForPlan, kPictureGroup, "image-encoder",
                "", "PATH", "SigLIP for a Redux that is a single file"},
    ValueOption{&Options::redux_image, kForPictures | kForPlan, kPictureGroup, "redux-image", "",
                "FILE[:SCALE]",
                "a picture to take up beside the prompt, or instead of one, and how strongly "
                "(default: 1); may be repeated",
                true},
    ValueOption{&Options::base_size, kForNewPictures | kForPlan, kPictureGroup, "base-size", "",
                "PIXELS",
                "like --progressive, from this longer side (default: 512, or the model's usual "
                "size if that is less)"},
    ValueOption{&Options::tile, kForPictures | kForPlan, kPictureGroup, "tile", "", "PIXELS",
                "make a picture with longer sides in overlapping tiles of this side (default: as "
                "one; of upscale: the model's usual size, at least 128)"},
    ValueOption{&Options::steps, kForPictures | kForPlan, kPictureGroup, "steps", "", "N",
                "denoising steps"},
    ValueOption{&Options::scheduler, kForPictures | kForPlan, kPictureGroup, "scheduler", "",
                "NAME",
                "how a step is made: euler, heun (two passes) or dpmpp_2m (default: euler)"},
    ValueOption{&Options::sigmas, kForPictures | kForPlan, kPictureGroup, "sigmas", "", "X,X,...",
                "noise levels before the shift, one for each step, such as 1,0.75,0.5,0.25"},
    ValueOption{&Options::shift, kForPictures | kForPlan, kPictureGroup, "shift", "", "X|auto",
                "shift of the noise levels; 1 is none (default: auto, the model's)"},
    ValueOption{&Options::compat, kForPictures | kForEncode | kForPlan, kPictureGroup, "compat", "",
                "PROGRAM",
                "noise levels and T5 tokens as diffusers, comfyui or bfl has them "
                "(default: diffusers)"},
    ValueOption{
        &Options::cache_threshold, kForPictures | kForPlan, kPictureGroup, "cache-threshold", "",
        "X",
        "leave out most of a pass that would change no more than this beside the last whole "
        "one, such as 0.1; 0 to 1 (default: 0, never)"},
    ValueOption{&Options::guidance, kForPictures, kPictureGroup, "guidance", "", "X",
                "guidance scale, for models with a guidance embedding"},
    ValueOption{&Options::seed, kForPictures, kPictureGroup, "seed", "-s", "N",
                "0 to 2^64-1, or -1 for a random one (default: 0)"},
    ValueOption{&Options::num_images, kForNewPictures | kForPlan, kPictureGroup, "num-images", "-n",
                "N", "pictures with the seeds s, s+1, ...; the files are numbered (default: 1)"},
    ValueOption{&Options::prompts, kForPlan, kPictureGroup, "prompts", "", "N",
                "different prompts in one go, as `batch` makes them (default: 1)"},
    ValueOption{&Options::max_sequence_length, kForPictures | kForEncode | kForPlan, kPictureGroup,
                "max-sequence-length", "", "N", "T5 tokens of the prompt, 1 to 512"},
    ValueOption{&Options::prompt_embeds, kForPictures, kPictureGroup, "prompt-embeds", "", "FILE",
                "prompts as `encode` wrote them; no text encoder is needed"},
    ValueOption{&Options::threads, kForPictures | kForEncode | kForPlan | kForQuantize,
                kPictureGroup, "threads", "", "N", "default: one per physical core"},
    ValueOption{&Options::device, kForPictures | kForEncode | kForPlan, kPictureGroup, "device", "",
                "NAME", "auto, cpu, cuda or cuda:N (default: auto)"},
    ValueOption{&Options::dtype, kForPictures | kForEncode | kForPlan, kPictureGroup, "dtype", "",
                "NAME", "auto, bf16, fp16 or fp32 (default: auto, that of the weights)"},
    ValueOption{&Options::compute, kForPictures | kForPlan, kPictureGroup, "compute", "", "NAME",
                "what most products are made in: auto (the dtype), bf16, int8 or fp8; faster with "
                "large models where the hardware has it, and not quite the same picture (default: "
                "auto)"},
    ValueOption{&Options::events, kForPictures, kPictureGroup, "events", "", "FILE|fd:N",
                "write what happens as JSON lines"},
    ValueOption{&Options::order, kForBatch, kBatchGroup, "order", "", "WHICH",
                "phase: all prompts through one phase, then the next; prompt: each picture as "
                "early as possible (default: phase)"},
    ValueOption{&Options::chunk_size, kForBatch | kForPlan, kBatchGroup, "chunk-size", "", "N",
                "at most so many prompts in one go (default: 16)"},
    ValueOption{&Options::checkpoint_every, kForBatch, kBatchGroup, "checkpoint-every", "", "N",
                "save unfinished pictures every N steps, to go on from there (default: never)"},
    ValueOption{&Options::contact_sheet, kForBatch, kBatchGroup, "contact-sheet", "", "FILE.png",
                "at the end, all pictures small on one"},
    ValueOption{&Options::gallery, kForBatch, kBatchGroup, "gallery", "", "FILE.html",
                "at the end, a page with all pictures, prompts and settings"},
    ValueOption{&Options::rendezvous, kForBatch, kBatchGroup, "rendezvous", "", "HOST:PORT",
                "where processes that share the prompts meet, if no launcher says it"},
    ValueOption{&Options::max_vram, kForPictures | kForEncode | kForPlan, kMemoryGroup, "max-vram",
                "", "SIZE", "take no more of the graphics card's memory than this"},
    ValueOption{&Options::max_ram, kForPictures | kForEncode | kForPlan, kMemoryGroup, "max-ram",
                "", "SIZE", "take no more main memory than this"},
    ValueOption{&Options::vae_tiling, kForPictures | kForPlan, kMemoryGroup, "vae-tiling", "",
                "WHEN",
                "decode in bands of rows: auto (when memory is short), on or off; the picture is "
                "the same (default: auto)"},
    ValueOption{&Options::cuda_graphs, kForPictures | kForPlan, kMemoryGroup, "cuda-graphs", "",
                "WHEN",
                "start a pass of a transformer that fits on the card as one graph: on or off; the "
                "picture is the same (default: off)"},
    ValueOption{&Options::on_pressure, kForPictures, kMemoryGroup, "on-pressure", "", "WHAT",
                "when the system begins to swap: replan, warn or abort (default: replan)"},
    ValueOption{&Options::memory_report, kForGenerate, kMemoryGroup, "memory-report", "", "FILE",
                "draw the use of memory over time; .svg, .html or .json"},
};

constexpr std::array kFlags = {
    Flag{&Options::no_cache, kForPictures, kPictureGroup, "no-cache", "",
         "encode the prompt anew, and keep nothing"},
    Flag{&Options::progressive, kForNewPictures | kForPlan, kPictureGroup, "progressive", "",
         "begin small and enlarge in stages, each at most doubling the sides"},
    Flag{&Options::max_size, kForPlan, kPictureGroup, "max-size", "",
         "plan the largest picture that fits, of --aspect"},
    Flag{&Options::keep_going, kForBatch, kBatchGroup, "keep-going", "",
         "go on after a picture that failed, and end with exit code 6"},
    Flag{&Options::overwrite, kForBatch, kBatchGroup, "overwrite", "",
         "make pictures anew that are there with other settings"},
    Flag{&Options::overwrite, kForQuantize, kPictureGroup, "overwrite", "",
         "replace FILE if it is there"},
    Flag{&Options::json, kForAll & ~kForBatch, kPictureGroup, "json", "",
         "one JSON object on standard output"},
    Flag{&Options::json, kForBatch, kPictureGroup, "json", "",
         "a JSON line on standard output for every picture"},
    Flag{&Options::quiet, kForAll, kPictureGroup, "quiet", "-q", "errors only"},
    Flag{&Options::verbose, kForAll, kPictureGroup, "verbose", "-v", "more details"},
};

const char kGenerateFooter[] = R"(
Commands (steadyflux COMMAND --help says more):
  generate      make a picture; the default
  upscale FILE  make a picture larger, with new detail
  batch FILE|-  make the pictures of a prompt file, or of the lines of a pipe
  encode        prompts become embeddings, for --prompt-embeds
  plan          what memory a picture would take, and how it would be shared out
  inspect PATH  what a model, a weight file or a picture of steadyflux holds
  quantize A B  a transformer or T5 encoder A becomes a smaller file B
  cache         what the cache of embeddings holds; cache clear empties it
  doctor        what this machine can do, and what would go wrong

A prompt that is a command's name: steadyflux generate doctor
A prompt that begins with a dash:  steadyflux -- "-5 degrees"

Exit codes: 0 done, 1 bug, 2 usage, 3 bad model or input file, 4 does not fit into memory,
            5 reading or writing failed, 6 batch with failures, 130/143 interrupted)";

const char kUpscaleFooter[] = R"(
A picture made by steadyflux says itself which model, prompt and settings it is of; options change
them. Memory is bounded by the tile, not by the picture.)";

const char kBatchFooter[] = R"(
FILE has one prompt a line (# begins a comment), or is JSON Lines (.jsonl) or CSV (.csv) with a
setting of its own for each prompt; options give what a line does not say. - reads lines from
standard input and answers each with a JSON line on standard output. Run again, it makes what is
not there yet.

Exit codes: 0 done, 2 usage or changed settings, 3 bad model or prompt file, 4 does not fit,
            5 reading or writing failed, 6 --keep-going and something failed, 130/143 interrupted)";

const char kEncodeFooter[] = R"(
The prompt is a text, or @FILE for a prompt file as `batch` takes it.)";

const char kQuantizeFooter[] = R"(
FILE ends in .gguf, or in .safetensors for fp8 (ComfyUI's scaled form). It appears when it is
complete. Small and delicate tensors keep their precision; what was done, and how far values are
from those of SOURCE, is printed at the end.)";

const char kPlanFooter[] = R"(
Only the configuration files of the model are needed, and no graphics card: with --device cuda and
--max-vram it plans for a card that may be elsewhere. Here the two sizes are the whole limit.
Exit code 4: it does not fit; what would fit is said.)";

[[noreturn]] void usage_error(const std::string& message) {
  throw Error(ErrorKind::kUsage, message);
}

std::string joined_names(const char* name, const char* short_name) {
  return *short_name == '\0' ? fmt::format("--{}", name) : fmt::format("{},--{}", short_name, name);
}

struct CommandApp {
  CLI::App app;
  std::optional<std::string> config_path;
  bool version = false;
};

void add_value(CLI::App& app, const std::string& names, const char* placeholder,
               const char* description, std::optional<std::string>& target,
               const char* group = kPictureGroup, bool repeatable = false) {
  // A function, because CLI11 turns "" into an absent value when it fills a std::optional itself.
  CLI::Option* option =
      repeatable ? app.add_option_function<std::vector<std::string>>(
                          names,
                          [&target](const std::vector<std::string>& texts) {
                            target = fmt::format("{}", fmt::join(texts, "\n"));
                          },
                          description)
                       ->allow_extra_args(false)
                 : app.add_option_function<std::string>(
                          names, [&target](const std::string& text) { target = text; }, description)
                       ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  option->type_name(placeholder)->group(group);
}

unsigned mask_of(Command command) {
  switch (command) {
    case Command::kGenerate:
      return kForGenerate;
    case Command::kUpscale:
      return kForUpscale;
    case Command::kBatch:
      return kForBatch;
    case Command::kEncode:
      return kForEncode;
    case Command::kPlan:
      return kForPlan;
    case Command::kInspect:
      return kForInspect;
    case Command::kQuantize:
      return kForQuantize;
    case Command::kCache:
      return kForCache;
    case Command::kDoctor:
      break;
  }
  return kForDoctor;
}

void describe(CommandApp& command, CommandLine& line) {
  CLI::App& app = command.app;
  app.set_help_flag("-h,--help", "print this and leave");
  app.add_flag("--version", command.version, "print the version and leave");
  const unsigned mask = mask_of(line.command);
  switch (line.command) {
    case Command::kGenerate:
      app.name("steadyflux");
      app.description("Makes pictures from text with FLUX.1.");
      app.footer(kGenerateFooter + 1);
      add_value(app, "prompt", "", "what the picture shows; - reads it from standard input",
                line.positional);
      break;
    case Command::kUpscale:
      app.name("steadyflux upscale");
      app.description("Makes a picture larger, with detail that the model adds tile by tile.");
      app.footer(kUpscaleFooter + 1);
      add_value(app, "picture", "", "PNG, JPEG or WebP", line.positional);
      break;
    case Command::kBatch:
      app.name("steadyflux batch");
      app.description("Makes the pictures of a prompt file, or of prompts that come in by a pipe.");
      app.footer(kBatchFooter + 1);
      add_value(app, "file", "", "the prompts; - reads them from standard input", line.positional);
      break;
    case Command::kEncode:
      app.name("steadyflux encode");
      app.description(
          "Encodes prompts, so that pictures can be made where there is no room for the text "
          "encoders.");
      app.footer(kEncodeFooter + 1);
      add_value(app, "prompt", "", "a prompt, or @FILE", line.positional);
      break;
    case Command::kPlan:
      app.name("steadyflux plan");
      app.description("Tells what memory a picture would take, before anything is loaded.");
      app.footer(kPlanFooter + 1);
      break;
    case Command::kInspect:
      app.name("steadyflux inspect");
      app.description(
          "Tells what a model folder, a component folder, a .safetensors or .gguf file or a "
          "picture "
          "made by steadyflux holds.");
      add_value(app, "path", "", "what to look at", line.positional);
      break;
    case Command::kQuantize:
      app.name("steadyflux quantize");
      app.description("Makes a smaller file of a FLUX.1 transformer or a T5 encoder.");
      app.footer(kQuantizeFooter + 1);
      add_value(app, "source", "", "a model or component folder, a file, or a hub id",
                line.positional);
      add_value(app, "file", "", "the new file", line.destination);
      break;
    case Command::kCache:
      app.name("steadyflux cache");
      app.description("Tells what the cache of embeddings holds; `cache clear` empties it.");
      add_value(app, "what", "", "clear, or nothing", line.positional);
      break;
    case Command::kDoctor:
      app.name("steadyflux doctor");
      app.description("Tells what this machine can do, and what would go wrong.");
      break;
  }
  for (const ValueOption& option : kValueOptions) {
    if ((option.commands & mask) == 0) continue;
    add_value(app, joined_names(option.name, option.short_name), option.placeholder,
              option.description, line.typed.*option.value, option.group, option.repeatable);
  }
  if (mask == kForGenerate) {
    add_value(app, "--from", "FILE.png", "repeat the picture of this file; options override",
              line.from);
  }
  if ((mask & (kForPictures | kForEncode | kForPlan)) != 0) {
    add_value(app, "--config", "FILE", "TOML or INI file with the long names of the options",
              command.config_path);
  }
  for (const Flag& flag : kFlags) {
    if ((flag.commands & mask) == 0) continue;
    app.add_flag(joined_names(flag.name, flag.short_name), line.typed.*flag.value,
                 flag.description)
        ->group(flag.group)
        ->disable_flag_override();  // --json=no would otherwise be a way to say --json
  }
}

// Is `argument` an option whose value is the next argument?
bool takes_next_argument(const std::string& argument) {
  if (argument == "--from" || argument == "--config") return true;
  for (const ValueOption& option : kValueOptions) {
    if (argument == fmt::format("--{}", option.name)) return true;
    if (*option.short_name != '\0' && argument == option.short_name) return true;
  }
  return false;
}

// Removes the command's name from the arguments.
Command take_command(std::vector<std::string>& arguments) {
  for (std::size_t i = 0; i < arguments.size() && arguments[i] != "--"; ++i) {
    const std::string& argument = arguments[i];
    if (argument.size() > 1 && argument.front() == '-') {
      if (takes_next_argument(argument)) ++i;
      continue;
    }
    constexpr std::array<std::pair<const char*, Command>, 9> kCommands = {
        {{"generate", Command::kGenerate},
         {"upscale", Command::kUpscale},
         {"batch", Command::kBatch},
         {"encode", Command::kEncode},
         {"plan", Command::kPlan},
         {"inspect", Command::kInspect},
         {"quantize", Command::kQuantize},
         {"cache", Command::kCache},
         {"doctor", Command::kDoctor}}};
    for (const auto& [name, command] : kCommands) {
      if (argument == name) {
        arguments.erase(arguments.begin() + static_cast<std::ptrdiff_t>(i));
        return command;
      }
    }
    break;
  }
  return Command::kGenerate;
}

bool parse_flag(const std::string& path, const CLI::ConfigItem& item) {
  const std::string& text = item.inputs.front();
  if (text == "true") return true;
  if (text == "false") return false;
  throw Error(ErrorKind::kBadInput, fmt::format("{}: '{}' is {}, expected true or false", path,
                                                item.name, printable(text)));
}

Options read_config(const std::string& path) {
  std::istringstream stream(read_text_file(path, 1 << 20));
  std::vector<CLI::ConfigItem> items;
  try {
    items = CLI::ConfigTOML().from_config(stream);
  } catch (const CLI::Error& error) {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: {}", path, error.what()));
  }
  Options options;
  for (const CLI::ConfigItem& item : items) {
    if (item.name == "++" || item.name == "--") {
      // CLI11's marks for the beginning and the end of a [section].
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{}: section [{}] is unknown; all keys stand outside of sections",
                              path, printable(item.parents.empty() ? "" : item.parents.back())));
    }
    // What a picture shows is no setting: --prompt belongs to one picture of upscale.
    const auto value = std::find_if(
        kValueOptions.begin(), kValueOptions.end(),
        [&](const ValueOption& o) { return o.name == item.name && o.value != &Options::prompt; });
    const auto flag = std::find_if(kFlags.begin(), kFlags.end(),
                                   [&](const Flag& f) { return f.name == item.name; });
    if (!item.parents.empty() || (value == kValueOptions.end() && flag == kFlags.end())) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{}: unknown key '{}'; the keys are the long names of the options, "
                              "see steadyflux --help",
                              path, printable(item.fullname())));
    }
    const bool several = value != kValueOptions.end() && value->repeatable;
    if (item.inputs.size() != 1 && !several) {
      throw Error(ErrorKind::kBadInput, fmt::format("{}: '{}' has {} values, expected one", path,
                                                    item.name, item.inputs.size()));
    }
    if (value != kValueOptions.end()) {
      options.*(value->value) = fmt::format("{}", fmt::join(item.inputs, "\n"));
    } else {
      options.*(flag->value) = parse_flag(path, item);
    }
  }
  return options;
}

[[noreturn]] void explain_extras(const CLI::App& app, Command command) {
  const std::vector<std::string> extras = app.remaining();
  for (const std::string& extra : extras) {
    if (extra.size() > 1 && extra.front() == '-') {
      usage_error(
          fmt::format("unknown option {}; see {} --help", printable(extra), app.get_name()));
    }
  }
  const std::string first = extras.empty() ? "" : printable(extras.front());
  if (command == Command::kGenerate) {
    usage_error(
        fmt::format("more than one prompt ('{}' is left over): put the prompt in quotes", first));
  }
  usage_error(fmt::format("unexpected argument '{}'; see {} --help", first, app.get_name()));
}

}  // namespace

std::optional<std::string> Options::*find_value_option(const std::string& long_name) {
  const auto option = std::find_if(kValueOptions.begin(), kValueOptions.end(),
                                   [&](const ValueOption& o) { return o.name == long_name; });
  return option == kValueOptions.end() ? nullptr : option->value;
}

CommandLine parse_command_line(const std::vector<std::string>& arguments) {
  CommandLine line;
  std::vector<std::string> rest = arguments;
  line.command = take_command(rest);
  CommandApp command;
  describe(command, line);
  std::reverse(rest.begin(), rest.end());  // CLI11 takes them from the back
  try {
    command.app.parse(rest);
  } catch (const CLI::CallForHelp&) {
    line.info = command.app.help();
    return line;
  } catch (const CLI::ExtrasError&) {
    explain_extras(command.app, line.command);
  } catch (const CLI::ParseError& error) {
    usage_error(fmt::format("{}; see {} --help", error.what(), command.app.get_name()));
  }
  if (command.version) {
    line.info = version_line() + "\n";
    return line;
  }
  if (command.config_path) line.configured = read_config(*command.config_path);
  if (line.typed.quiet && line.typed.verbose)
    usage_error("--quiet and --verbose exclude each other");
  return line;
}

}  // namespace steadyflux::cli
