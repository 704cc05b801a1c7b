// What `inspect` found, as lines for people.
#pragma once

#include <string>

#include "cli/json_output.h"

namespace steadyflux::cli {

// Of the JSON that inspect prints. `verbose`: whole lists where there are else beginnings.
std::string inspect_text(const Json& result, bool verbose);

}  // namespace steadyflux::cli
