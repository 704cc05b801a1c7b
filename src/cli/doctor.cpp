// steadyflux doctor: what this machine can do, and what would go wrong, each with what to do. It
// never fails because something is missing: that is what it is there to tell.
#include <ATen/Version.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <thread>
#include <tuple>

#include "base/bytes.h"
#include "base/utf8.h"
#include "checkpoints/open_model.h"
#include "cli/commands.h"
#include "cli/json_output.h"
#include "cli/model_places.h"
#include "cli/request.h"
#include "cli/text_output.h"
#include "cli/version.h"
#include "config/model_config.h"
#include "memory/probe.h"
#include "pipeline/device.h"
#include "steadyflux/error.h"
#include "weights/component_weights.h"

namespace steadyflux::cli {
namespace {

namespace fs = std::filesystem;

// What the program may still take: the machine's free memory, or what its cgroup or ulimit -v
// leaves.
std::int64_t usable_memory(const HostMemory& memory) {
  std::int64_t usable = memory.available;
  if (memory.cgroup_limit) {
    usable = std::min(usable, *memory.cgroup_limit - memory.cgroup_used.value_or(0));
  }
  if (memory.address_space_left) usable = std::min(usable, *memory.address_space_left);
  return std::max<std::int64_t>(0, usable);
}

struct Report {
  Json facts;
  std::vector<std::string> problems;
};

void examine_devices(Report& report) {
  DeviceList list;
  try {
    list = list_devices();
  } catch (const std::exception& error) {
    const std::string text = error.what();
    list.problem = text.substr(0, text.find('\n'));
  }
  Json devices = Json::array();
  for (const DeviceInfo& device : list.devices) {
    devices.push_back({{"name", device.name}, {"free", device.free}, {"total", device.total}});
  }
  report.facts["devices"] = devices;
  if (!list.problem.empty()) {
    report.problems.push_back(
        fmt::format("no GPU: {}; pictures are made on the CPU", list.problem));
  }
}

void examine_host(Report& report) {
  const HostMemory memory = probe_host_memory();
  report.facts["cores"] = physical_cores();
  report.facts["hardware_threads"] = std::thread::hardware_concurrency();
  Json facts = {{"total", memory.total},           {"available", memory.available},
                {"swap_total", memory.swap_total}, {"swap_free", memory.swap_free},
                {"cgroup_limit", nullptr},         {"cgroup_used", nullptr},
                {"address_space_left", nullptr}};
  if (memory.cgroup_limit) facts["cgroup_limit"] = *memory.cgroup_limit;
  if (memory.cgroup_used) facts["cgroup_used"] = *memory.cgroup_used;
  if (memory.address_space_left) facts["address_space_left"] = *memory.address_space_left;
  facts["usable"] = usable_memory(memory);
  report.facts["memory"] = facts;
}

void examine_disk(Report& report, const fs::path& output_folder) {
  const auto space = probe_disk(output_folder);
  report.facts["output_folder"] = fs::absolute(output_folder).lexically_normal().string();
  report.facts["disk_available"] = space ? Json(space->available) : Json(nullptr);
  std::error_code error;
  if (!fs::is_directory(output_folder, error)) {
    report.problems.push_back(
        fmt::format("{}: no such folder; make it, or give -o another", output_folder.string()));
  } else if (access(output_folder.c_str(), W_OK) != 0) {
    report.problems.push_back(
        fmt::format("{}: cannot be written to; give -o another folder", output_folder.string()));
  } else if (space && space->available < (std::int64_t{64} << 20)) {
    report.problems.push_back(fmt::format("{}: only {} of disk space left; make room",
                                          output_folder.string(), format_bytes(space->available)));
  }
}

// Opens everything but the weights' content.
Json examine_model(const FoundModel& found, const ModelParts& parts, std::int64_t usable,
                   Report& report) {
  Json facts = {{"spec", found.spec}, {"folder", found.folder.string()}, {"place", found.place}};
  if (const auto space = probe_disk(found.folder)) facts["disk_available"] = space->available;
  try {
    const FluxModel model = open_model(found.folder, parts);
    facts["variant"] = short_name(model.variant());
    for (const auto& [part, component, path] :
         {std::tuple{"text_encoder", Component::kTextEncoder, model.paths.text_encoder},
          {"text_encoder_2", Component::kTextEncoder2, model.paths.text_encoder_2},
          {"transformer", Component::kTransformer, model.paths.transformer},
          {"vae", Component::kVae, model.paths.vae}}) {
      std::int64_t bytes = 0;
      const auto weights = ComponentWeights::open(path, component);
      for (const auto& [name, tensor] : weights.tensors()) {
        bytes += static_cast<std::int64_t>(tensor.nbytes());
      }
      facts["bytes"][part] = bytes;
      if (bytes > usable) {
        report.problems.push_back(fmt::format(
            "{}: {} has {} of weights, and {} of memory is left: on the CPU it is read from disk "
            "again in every step; free memory",
            found.spec, part, format_bytes(bytes), format_bytes(usable)));
      }
    }
  } catch (const Error& error) {
    facts["problem"] = error.what();
    report.problems.push_back(error.what());
  }
  return facts;
}

// The parts that were named. They go with one model: which one has to be said.
ModelParts named_parts(const Options& typed) {
  const auto part = [&](const char* name) -> fs::path {
    const auto& text = typed.*find_value_option(name);
    if (!text) return {};
    if (!typed.model) {
      throw Error(ErrorKind::kUsage,
                  fmt::format("--{} names a part of a model; name the model too, with -m", name));
    }
    return part_path(name, *text);
  };
  return {.vae = part("vae"),
          .clip_l = part("clip-l"),
          .t5 = part("t5"),
          .tokenizers = part("tokenizers")};
}

void examine_models(Report& report, const Options& typed) {
  const ModelParts parts = named_parts(typed);
  std::vector<FoundModel> models = find_models();
  if (typed.model) {
    try {
      models = {{*typed.model, resolve_model(*typed.model, {}), "-m"}};
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::kUsage) throw;
      report.problems.push_back(error.what());
      models.clear();
    }
  } else if (models.empty()) {
    report.problems.push_back(
        "no model found; name one with -m or STEADYFLUX_MODEL, or fetch one: "
        "hf download black-forest-labs/FLUX.1-schnell");
  }
  const auto usable = report.facts["memory"]["usable"].get<std::int64_t>();
  Json list = Json::array();
  for (const FoundModel& model : models) {
    list.push_back(examine_model(model, parts, usable, report));
  }
  report.facts["models"] = list;
}

std::string bytes_of(const Json& value) {
  return value.is_null() ? "unknown" : format_bytes(value.get<std::int64_t>());
}

std::string as_text(const Report& report) {
  const Json& facts = report.facts;
  const Json& memory = facts["memory"];
  std::string text = fmt::format("{}, CPU capability {}\n", version_line(),
                                 facts["cpu_capability"].get<std::string>());
  text += fmt::format("CPU      {} cores, {} hardware threads\n", facts["cores"].get<int>(),
                      facts["hardware_threads"].get<unsigned>());
  text += fmt::format("RAM      {} available of {}\n", bytes_of(memory["available"]),
                      bytes_of(memory["total"]));
  if (!memory["cgroup_limit"].is_null()) {
    text += fmt::format("cgroup   {} used of {}\n", bytes_of(memory["cgroup_used"]),
                        bytes_of(memory["cgroup_limit"]));
  }
  if (!memory["address_space_left"].is_null()) {
    text += fmt::format("ulimit   {} of address space left (ulimit -v)\n",
                        bytes_of(memory["address_space_left"]));
  }
  text += fmt::format("swap     {} free of {}\n", bytes_of(memory["swap_free"]),
                      bytes_of(memory["swap_total"]));
  text += fmt::format("disk     {} free for {}\n", bytes_of(facts["disk_available"]),
                      facts["output_folder"].get<std::string>());
  for (const Json& device : facts["devices"]) {
    text += fmt::format("GPU      {}: {} free of {}\n", device["name"].get<std::string>(),
                        bytes_of(device["free"]), bytes_of(device["total"]));
  }
  for (const Json& model : facts["models"]) {
    text +=
        fmt::format("model    {} ({}, {})\n", printable(model["spec"].get<std::string>(), 200),
                    model["place"].get<std::string>(), model.value("variant", "cannot be used"));
  }
  text += report.problems.empty() ? "no problems found\n" : "problems:\n";
  for (const std::string& problem : report.problems) text += fmt::format("  - {}\n", problem);
  return text;
}

}  // namespace

void run_doctor(const CommandLine& line) {
  Report report;
  report.facts["steadyflux_version"] = steadyflux_version();
  report.facts["libtorch_version"] = libtorch_version();
  report.facts["cpu_capability"] = at::get_cpu_capability();
  examine_host(report);
  fs::path folder = fs::path(line.typed.output.value_or("out.png")).parent_path();
  examine_disk(report, folder.empty() ? fs::path(".") : folder);
  examine_devices(report);
  examine_models(report, line.typed);
  if (line.typed.verbose) report.facts["libtorch_configuration"] = at::show_config();
  if (line.typed.json) {
    report.facts["problems"] = report.problems;
    print_json(report.facts);
    return;
  }
  print_text(as_text(report));
  if (line.typed.verbose) print_text(at::show_config());
}

}  // namespace steadyflux::cli
