// The reader of PNG and JPEG pixels: whatever comes in, the only way out besides a whole picture is
// Error. Damaged PNGs are stopped by their checksums before stb_image sees them, so it is JPEGs
// above all that are searched here.
#include <cstddef>
#include <cstdint>
#include <string>

#include "image/read_picture.h"
#include "steadyflux/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const steadyflux::Image image = steadyflux::decode_picture({data, size}, "fuzz");
    if (image.width < 1 || image.height < 1 ||
        image.rgb.size() != static_cast<std::size_t>(image.width * image.height * 3)) {
      __builtin_trap();
    }
  } catch (const steadyflux::Error&) {
  }
  return 0;
}
