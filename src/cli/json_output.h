// The one JSON object that --json prints.
#pragma once

#include <nlohmann/json.hpp>

namespace steadyflux::cli {

using Json = nlohmann::ordered_json;

// To standard output, indented. Bytes that are no UTF-8 become U+FFFD. Throws Error{kIo}.
void print_json(const Json& value);

}  // namespace steadyflux::cli
