// steadyflux quantize: a transformer or a T5 encoder becomes a smaller file, under its name only
// when it is complete.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>

#include "base/bytes.h"
#include "base/unfinished_file.h"
#include "base/utf8.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/json_output.h"
#include "cli/model_places.h"
#include "cli/progress_bar.h"
#include "cli/signals.h"
#include "config/model_config.h"
#include "conversion/convert.h"
#include "memory/probe.h"
#include "steadyflux/error.h"

namespace steadyflux::cli {
namespace {

namespace fs = std::filesystem;

constexpr int kMostThreads = 1024;
constexpr double kDrawsPerSecond = 10;
constexpr const char* kUnfinished = ".steadyflux-quantize-";

struct QuantizeJob {
  fs::path source;
  fs::path destination;
  fs::path target;  // the destination, or what it links to
  mode_t mode = 0666;
  DType type = DType::kQ8_0;
  std::optional<Component> component;
  int threads = 1;
  bool overwrite = false;

  fs::path folder() const { return target.has_parent_path() ? target.parent_path() : "."; }
};

Error usage(const std::string& message) { return {ErrorKind::kUsage, message}; }

DType parse_type(const Options& options) {
  const auto names = fmt::format("{}", fmt::join(conversion_type_names(), ", "));
  if (!options.type) throw usage(fmt::format("no type given; --type is one of {}", names));
  if (const auto type = conversion_type(*options.type)) return *type;
  throw usage(fmt::format("--type {}: expected one of {}", printable(*options.type), names));
}

std::optional<Component> parse_component(const Options& options) {
  if (!options.component) return std::nullopt;
  if (*options.component == "transformer") return Component::kTransformer;
  if (*options.component == "t5") return Component::kTextEncoder2;
  throw usage(
      fmt::format("--component {}: expected transformer or t5", printable(*options.component)));
}

int parse_threads(const Options& options) {
  if (!options.threads) return physical_cores();
  const std::string& text = *options.threads;
  int threads = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), threads);
  if (error != std::errc() || end != text.data() + text.size() || threads < 1 ||
      threads > kMostThreads) {
    throw usage(fmt::format("--threads {}: expected an integer from 1 to {}", printable(text),
                            kMostThreads));
  }
  return threads;
}

std::string extension_of(const fs::path& path) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return extension;
}

Error is_there(const QuantizeJob& job) {
  return usage(fmt::format("{}: is there already; --overwrite replaces it",
                           printable(job.destination.string(), 200)));
}

// Looks at what is there under the new file's name, and at the folder it is to lie in.
void check_destination(QuantizeJob& job) {
  const auto name = job.destination.string();
  if (const auto expected = conversion_extension(job.type);
      extension_of(job.destination) != expected) {
    throw usage(fmt::format("{}: --type {} is written as a {} file", printable(name, 200),
                            conversion_type_name(job.type), expected));
  }
  job.target = job.destination;
  struct stat info {};
  if (::stat(job.destination.c_str(), &info) == 0) {
    if (S_ISDIR(info.st_mode)) {
      throw Error(ErrorKind::kIo, fmt::format("{}: is a folder; give the name of a file", name));
    }
    if (!S_ISREG(info.st_mode)) throw Error(ErrorKind::kIo, name + ": is no regular file");
    if (!job.overwrite) throw is_there(job);
    job.mode = info.st_mode & 0777;
    std::error_code error;
    job.target = fs::canonical(job.destination, error);
    if (error) throw Error(ErrorKind::kIo, fmt::format("{}: {}", name, error.message()));
  }
  std::error_code error;
  if (fs::is_directory(job.folder(), error)) return;
  throw Error(ErrorKind::kIo, fmt::format("{}: the folder {} does not exist; make it first", name,
                                          job.folder().string()));
}

QuantizeJob make_job(const CommandLine& line) {
  if (!line.positional || !line.destination) {
    throw usage("expected two paths; try: steadyflux quantize MODEL NEW.gguf --type q8_0");
  }
  QuantizeJob job;
  job.source = *line.positional;
  job.destination = *line.destination;
  job.type = parse_type(line.typed);
  job.component = parse_component(line.typed);
  job.threads = parse_threads(line.typed);
  job.overwrite = line.typed.overwrite;
  check_destination(job);
  std::error_code error;
  // Perhaps a model in the Hugging Face cache; the error names all that was tried.
  if (!fs::exists(job.source, error)) {
    job.source = resolve_model(*line.positional, bundled_model_dirs());
  }
  return job;
}

// Both would be read and written at once; also where names differ and the file is the same.
void check_not_the_source(const QuantizeJob& job, const ConversionSource& source) {
  for (const fs::path& file : source.files) {
    std::error_code error;
    if (!fs::equivalent(file, job.target, error)) continue;
    throw usage(fmt::format("{}: is the file that is read; write to another one",
                            printable(job.destination.string(), 200)));
  }
}

void check_room(const QuantizeJob& job, std::uint64_t bytes) {
  std::error_code error;
  const auto space = fs::space(job.folder(), error);
  if (error || space.available >= bytes) return;  // where it cannot be told, writing will tell
  throw Error(ErrorKind::kIo,
              fmt::format("{}: the file will have {}, and there is room for {}; make room, or "
                          "write to another disk",
                          job.destination.string(), format_bytes(static_cast<std::int64_t>(bytes)),
                          format_bytes(static_cast<std::int64_t>(space.available))));
}

class ProgressLine {
 public:
  explicit ProgressLine(Console& console) : console_(console) { clock_.start("quantize", 0); }

  void show(std::int64_t done, std::int64_t total) {
    if (const int signal = pending_signal()) throw Interrupted(signal);
    if (!console_.is_terminal() || !rate_.pass()) return;
    const std::int64_t percent = total > 0 ? 100 * (done / 1000) / (total / 1000 + 1) : 0;
    const auto seconds = clock_.seconds();
    const auto remaining =
        done > 0 ? seconds * static_cast<double>(total - done) / static_cast<double>(done) : 0;
    const std::size_t room = console_.width();
    const std::size_t bar = room > 60 ? std::min<std::size_t>(40, room - 45) : 10;
    console_.status(fmt::format("quantize {} {:>3} %  {}{}", bar_text(done, total, bar), percent,
                                duration_text(seconds),
                                done > 0 ? "  ETA " + duration_text(remaining) : ""));
  }

 private:
  Console& console_;
  PhaseClock clock_;
  RateLimit rate_{kDrawsPerSecond, steady_seconds};
};

std::string table(const ConversionReport& report) {
  auto text = fmt::format("{:<8}{:>8}{:>16}{:>14}{:>14}{:>14}", "type", "tensors", "values",
                          "before", "after", "RMS error");
  TypeReport all;
  const auto row = [&](const std::string& name, const TypeReport& type, const std::string& error) {
    text += fmt::format("\n{:<8}{:>8}{:>16}{:>14}{:>14}{:>14}", name, type.tensors, type.values,
                        format_bytes(static_cast<std::int64_t>(type.bytes_before)),
                        format_bytes(static_cast<std::int64_t>(type.bytes_after)), error);
  };
  for (const TypeReport& type : report.types) {
    row(to_string(type.dtype), type,
        type.relative_rms_error == 0 ? "0"
                                     : fmt::format("{:.4g} %", 100 * type.relative_rms_error));
    all.tensors += type.tensors;
    all.values += type.values;
    all.bytes_before += type.bytes_before;
    all.bytes_after += type.bytes_after;
  }
  if (report.types.size() > 1) row("all", all, "");
  return text;
}

Json as_json(const QuantizeJob& job, const ConversionSource& source, const ConversionReport& report,
             double seconds, const Console& console) {
  Json result = {{"source", source.weights.path().string()},
                 {"description", source.description},
                 {"component", source.component == Component::kTransformer ? "transformer" : "t5"},
                 {"output", job.destination.string()},
                 {"type", conversion_type_name(job.type)},
                 {"file_bytes", report.file_bytes},
                 {"seconds", seconds},
                 {"types", Json::array()},
                 {"warnings", console.warnings()}};
  for (const TypeReport& type : report.types) {
    result["types"].push_back({{"dtype", to_string(type.dtype)},
                               {"tensors", type.tensors},
                               {"values", type.values},
                               {"bytes_before", type.bytes_before},
                               {"bytes_after", type.bytes_after},
                               {"relative_rms_error", type.relative_rms_error}});
  }
  return result;
}

// One process at a time writes it; what another has finished since the beginning stays.
ConversionReport write_file(const QuantizeJob& job, const ConversionPlan& plan, Console& console) {
  UnfinishedFile file(job.folder(), job.target, job.mode, kUnfinished,
                      UnfinishedFile::Writers::kOne);
  std::error_code error;
  if (!job.overwrite && fs::exists(job.target, error)) throw is_there(job);
  ProgressLine progress(console);
  auto report = convert(
      plan,
      {.append = [&](std::span<const std::byte> bytes) { file.write(bytes); },
       .rewrite_start = [&](std::span<const std::byte> bytes) { file.rewrite_start(bytes); },
       .restart = [&] { file.restart(); }},
      job.threads, [&](std::int64_t done, std::int64_t total) { progress.show(done, total); });
  console.status("writing to the disk");
  file.finish(/*durable=*/true);
  return report;
}

}  // namespace

void run_quantize(const CommandLine& line) {
  const QuantizeJob job = make_job(line);
  Console console(line.typed.quiet     ? Verbosity::kQuiet
                  : line.typed.verbose ? Verbosity::kVerbose
                                       : Verbosity::kNormal);
  const double start = steady_seconds();
  const auto source = open_conversion_source(job.source, job.component);
  check_not_the_source(job, source);
  const auto plan = plan_conversion(source, job.type);
  UnfinishedFile::remove_abandoned(job.folder(), kUnfinished);
  check_room(job, converted_file_bytes(plan));
  console.info(
      fmt::format("{}: {}", printable(source.weights.path().string(), 200), source.description));
  for (const std::string& warning : plan.warnings) console.warning(warning);

  const auto report = write_file(job, plan, console);
  const double seconds = steady_seconds() - start;

  for (const std::string& warning : report.warnings) console.warning(warning);
  console.info(table(report));
  console.info(fmt::format("{}: {} in {}", printable(job.destination.string(), 200),
                           format_bytes(static_cast<std::int64_t>(report.file_bytes)),
                           duration_text(seconds)));
  if (line.typed.json) print_json(as_json(job, source, report, seconds, console));
}

}  // namespace steadyflux::cli
