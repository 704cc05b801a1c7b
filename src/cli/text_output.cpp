#include "cli/text_output.h"

#include <cstdint>
#include <span>

#include "image/output_file.h"

namespace steadyflux::cli {

void print_text(const std::string& text) {
  write_stdout({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
}

}  // namespace steadyflux::cli
