// Text to standard output, with failures noticed (a full disk, a closed pipe); and what the stream
// it goes to can show.
#pragma once

#include <cstddef>
#include <string>

namespace steadyflux::cli {

// Throws Error{kIo}.
void print_text(const std::string& text);

struct TextStyle {
  std::size_t width = 80;  // columns
  bool unicode = false;    // block characters may be used
};

// Width of the terminal behind `fd`, 80 if there is none; Unicode on terminals of a UTF-8 locale.
TextStyle text_style_of(int fd);

}  // namespace steadyflux::cli
