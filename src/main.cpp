// steadyflux: parse the command line, run the command, turn what was thrown into one line on
// standard error and an exit code. The only place where errors are caught for good.
#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <cstdio>
#include <new>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/options.h"
#include "cli/signals.h"
#include "cli/text_output.h"
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
    case steadyflux::cli::Command::kInspect:
      return steadyflux::cli::run_inspect(line);
    case steadyflux::cli::Command::kDoctor:
      return steadyflux::cli::run_doctor(line);
  }
}

int report(const Error& error) {
  fmt::print(stderr, "steadyflux: error: {}\n", error.what());
  return error.exit_code();
}

int report_out_of_memory(const std::string& detail) {
  return report(Error(ErrorKind::kDoesNotFit,
                      fmt::format("out of memory{}: use a smaller --width and --height, or free "
                                  "memory; steadyflux doctor tells what there is",
                                  detail)));
}

// libtorch's messages carry a stack trace after the first line.
int report(const c10::Error& error) {
  const std::string text = error.what_without_backtrace();
  const std::string first_line = text.substr(0, text.find('\n'));
  if (dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr ||
      text.find("can't allocate memory") != std::string::npos) {
    return report_out_of_memory(fmt::format(" ({})", first_line));
  }
  return report(Error(ErrorKind::kInternal, fmt::format("libtorch: {}", first_line)));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    steadyflux::cli::install_signal_handlers();
    run(std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc));
    return 0;
  } catch (const Error& error) {
    return report(error);
  } catch (const c10::Error& error) {
    return report(error);
  } catch (const std::bad_alloc&) {
    return report_out_of_memory("");
  } catch (const std::exception& error) {
    return report(Error(ErrorKind::kInternal, error.what()));
  }
}
