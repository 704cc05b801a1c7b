// steadyflux doctor (being written).
#include "cli/commands.h"
#include "steadyflux/error.h"

namespace steadyflux::cli {
void run_doctor(const CommandLine&) { throw Error(ErrorKind::kInternal, "doctor is not ready"); }
}  // namespace steadyflux::cli
