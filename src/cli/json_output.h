// The JSON that --json prints.
#pragma once

#include <nlohmann/json.hpp>

namespace steadyflux::cli {

using Json = nlohmann::ordered_json;

// To standard output, indented. Bytes that are no UTF-8 become U+FFFD. Throws Error{kIo}.
void print_json(const Json& value);
// The same on one line, written at once.
void print_json_line(const Json& value);

}  // namespace steadyflux::cli
