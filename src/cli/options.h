// What was typed, before anyone asks what it means: every value is still text. request.h gives it
// a meaning. Options may come from the command line or from a --config file; the two are kept
// apart, because --from (the settings recorded in a picture) ranks between them.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace steadyflux::cli {

enum class Command {
  kGenerate,
  kUpscale,
  kBatch,
  kEncode,
  kPlan,
  kInspect,
  kQuantize,
  kCache,
  kDoctor
};

struct Options {
  std::optional<std::string> model;
  std::optional<std::string> vae;
  std::optional<std::string> clip_l;
  std::optional<std::string> t5;
  std::optional<std::string> tokenizers;
  std::optional<std::string> lora;  // several: one a line
  std::optional<std::string> prompt_2;
  std::optional<std::string> negative_prompt;
  std::optional<std::string> negative_prompt_2;
  std::optional<std::string> true_cfg_scale;
  std::optional<std::string> width;
  std::optional<std::string> height;
  std::optional<std::string> size;
  std::optional<std::string> aspect;
  std::optional<std::string> max_seconds;
  std::optional<std::string> tflops;
  std::optional<std::string> image;
  std::optional<std::string> mask;
  std::optional<std::string> strength;
  std::optional<std::string> reference;
  std::optional<std::string> reference_size;
  std::optional<std::string> control_image;
  std::optional<std::string> redux;
  std::optional<std::string> image_encoder;
  std::optional<std::string> redux_image;  // several: one a line
  std::optional<std::string> base_size;
  std::optional<std::string> tile;
  std::optional<std::string> to;      // of upscale
  std::optional<std::string> prompt;  // of upscale
  std::optional<std::string> steps;
  std::optional<std::string> scheduler;
  std::optional<std::string> sigmas;
  std::optional<std::string> shift;
  std::optional<std::string> compat;
  std::optional<std::string> cache_threshold;
  std::optional<std::string> guidance;
  std::optional<std::string> seed;
  std::optional<std::string> num_images;
  std::optional<std::string> max_sequence_length;
  std::optional<std::string> threads;
  std::optional<std::string> device;
  std::optional<std::string> dtype;
  std::optional<std::string> compute;
  std::optional<std::string> output;
  std::optional<std::string> max_vram;
  std::optional<std::string> max_ram;
  std::optional<std::string> vae_tiling;
  std::optional<std::string> cuda_graphs;
  std::optional<std::string> on_pressure;
  std::optional<std::string> memory_report;
  std::optional<std::string> events;
  std::optional<std::string> prompt_embeds;
  std::optional<std::string> prompts;  // of `plan`: how many different ones
  std::optional<std::string> order;
  std::optional<std::string> chunk_size;
  std::optional<std::string> checkpoint_every;
  std::optional<std::string> contact_sheet;
  std::optional<std::string> gallery;
  std::optional<std::string> rendezvous;
  std::optional<std::string> type;       // of quantize
  std::optional<std::string> component;  // of quantize
  bool max_size = false;                 // of plan
  bool progressive = false;
  bool no_cache = false;
  bool keep_going = false;
  bool overwrite = false;
  bool json = false;
  bool quiet = false;
  bool verbose = false;
};

struct CommandLine {
  Command command = Command::kGenerate;
  Options typed;
  Options configured;  // from --config
  // The prompt of generate and encode, the picture of upscale, the file of batch, the path of
  // inspect, the source of quantize, the word of cache.
  std::optional<std::string> positional;
  std::optional<std::string> destination;  // of quantize
  std::optional<std::string> from;         // --from FILE.png
  std::optional<std::string> info;         // --help or --version: print this and leave
};

// The member for an option with a value ("width"), or nullptr.
std::optional<std::string> Options::*find_value_option(const std::string& long_name);

// `arguments` without the program's name. Throws Error: kUsage for what cannot be understood,
// kBadInput for a --config file that is missing or holds unknown keys.
CommandLine parse_command_line(const std::vector<std::string>& arguments);

}  // namespace steadyflux::cli
