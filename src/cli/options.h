// What was typed, before anyone asks what it means: every value is still text. request.h gives it
// a meaning. Options may come from the command line or from a --config file; the two are kept
// apart, because --from (the settings recorded in a picture) ranks between them.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace steadyflux::cli {

enum class Command { kGenerate, kPlan, kInspect, kDoctor };

struct Options {
  std::optional<std::string> model;
  std::optional<std::string> width;
  std::optional<std::string> height;
  std::optional<std::string> steps;
  std::optional<std::string> guidance;
  std::optional<std::string> seed;
  std::optional<std::string> num_images;
  std::optional<std::string> max_sequence_length;
  std::optional<std::string> threads;
  std::optional<std::string> device;
  std::optional<std::string> dtype;
  std::optional<std::string> output;
  std::optional<std::string> max_vram;
  std::optional<std::string> max_ram;
  std::optional<std::string> vae_tiling;
  std::optional<std::string> on_pressure;
  std::optional<std::string> memory_report;
  bool json = false;
  bool quiet = false;
  bool verbose = false;
};

struct CommandLine {
  Command command = Command::kGenerate;
  Options typed;
  Options configured;                     // from --config
  std::optional<std::string> positional;  // the prompt of generate, the path of inspect
  std::optional<std::string> from;        // --from FILE.png
  std::optional<std::string> info;        // --help or --version: print this and leave
};

// `arguments` without the program's name. Throws Error: kUsage for what cannot be understood,
// kBadInput for a --config file that is missing or holds unknown keys.
CommandLine parse_command_line(const std::vector<std::string>& arguments);

}  // namespace steadyflux::cli
