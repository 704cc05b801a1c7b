// Text to standard output, with failures noticed (a full disk, a closed pipe).
#pragma once

#include <string>

namespace steadyflux::cli {

// Throws Error{kIo}.
void print_text(const std::string& text);

}  // namespace steadyflux::cli
