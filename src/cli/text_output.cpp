#include "cli/text_output.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>

#include "image/output_file.h"

namespace steadyflux::cli {
namespace {

// The first of the three variables that is set decides, as in setlocale.
bool is_utf8_locale() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const char* value = std::getenv(name);
    if (value == nullptr || *value == '\0') continue;
    const std::string_view locale = value;
    for (const char* encoding : {"UTF-8", "utf-8", "UTF8", "utf8"}) {
      if (locale.find(encoding) != std::string_view::npos) return true;
    }
    return false;
  }
  return false;
}

}  // namespace

void print_text(const std::string& text) {
  write_stdout({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
}

TextStyle text_style_of(int fd) {
  TextStyle style;
  winsize size{};
  if (ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) style.width = size.ws_col;
  style.unicode = isatty(fd) == 1 && is_utf8_locale();
  return style;
}

}  // namespace steadyflux::cli
