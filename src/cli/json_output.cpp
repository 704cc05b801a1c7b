#include "cli/json_output.h"

#include <string>

#include "cli/text_output.h"

namespace steadyflux::cli {

void print_json(const Json& value) {
  print_text(value.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

void print_json_line(const Json& value) {
  print_text(value.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace steadyflux::cli
