// steadyflux inspect (being written).
#include "cli/commands.h"
#include "steadyflux/error.h"

namespace steadyflux::cli {
void run_inspect(const CommandLine&) { throw Error(ErrorKind::kInternal, "inspect is not ready"); }
}  // namespace steadyflux::cli
