// steadyflux: parse the command line, run the command, turn what was thrown into one line on
// standard error and an exit code. The only place where errors are caught for good.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "base/utf8.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/run_events.h"
#include "cli/signals.h"
#include "cli/text_output.h"
#include "memory/release.h"
#include "steadyflux/error.h"

namespace {

using steadyflux::Error;
using steadyflux::ErrorKind;

void run(const std::vector<std::string>& arguments) {
  const steadyflux::cli::CommandLine line = steadyflux::cli::parse_command_line(arguments);
  if (line.info) {
    steadyflux::cli::print_text(*line.info);
    return;
  }
  switch (line.command) {
    case steadyflux::cli::Command::kGenerate:
      return steadyflux::cli::run_generate(line);
    case steadyflux::cli::Command::kUpscale:
      return steadyflux::cli::run_upscale(line);
    case steadyflux::cli::Command::kBatch:
      return steadyflux::cli::run_batch(line);
    case steadyflux::cli::Command::kEncode:
      return steadyflux::cli::run_encode(line);
    case steadyflux::cli::Command::kPlan:
      return steadyflux::cli::run_plan(line);
    case steadyflux::cli::Command::kInspect:
      return steadyflux::cli::run_inspect(line);
    case steadyflux::cli::Command::kQuantize:
      return steadyflux::cli::run_quantize(line);
    case steadyflux::cli::Command::kCache:
      return steadyflux::cli::run_cache(line);
    case steadyflux::cli::Command::kDoctor:
      return steadyflux::cli::run_doctor(line);
  }
}

// A started program may find its standard streams closed (2>&-). The next file it opened would take
// their numbers, and messages would land in a picture. A stand-in takes them, with which reading
// and writing fail as with a closed one.
void occupy_standard_streams() {
  for (int fd = 0; fd <= STDERR_FILENO; ++fd) {
    if (fcntl(fd, F_GETFD) < 0) ::open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
  }
}

// File names and arguments may hold newlines and escape sequences; messages are one line of text.
std::string one_line(const std::string& text) {
  std::string line;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    line += byte < 0x20 || byte == 0x7f ? fmt::format("\\x{:02X}", byte) : std::string(1, c);
  }
  return steadyflux::is_valid_utf8(line) ? line : steadyflux::printable(line, line.size());
}

int report(const Error& error) {
  // Not fmt::print, which throws if standard error cannot be written.
  std::fputs(fmt::format("steadyflux: error: {}\n", one_line(error.what())).c_str(), stderr);
  return error.exit_code();
}

}  // namespace

int main(int argc, char** argv) {
  try {
    steadyflux::return_large_blocks_at_once();
    occupy_standard_streams();
    steadyflux::cli::install_signal_handlers();
    run(std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc));
    return 0;
  } catch (const Error& error) {
    return report(error);
  } catch (const std::exception& error) {
    return report(steadyflux::cli::as_error(error));
  }
}
