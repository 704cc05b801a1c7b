// The text reader of PNG files and the metadata parser behind it: whatever comes in, the only way
// out besides success is Error. Checksums are repaired first, or nearly every input would end
// there.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "image/metadata.h"
#include "image/png.h"
#include "steadyflux/error.h"

namespace {

std::uint32_t read_u32(const std::vector<std::uint8_t>& bytes, std::size_t at) {
  return std::uint32_t{bytes[at]} << 24 | std::uint32_t{bytes[at + 1]} << 16 |
         std::uint32_t{bytes[at + 2]} << 8 | std::uint32_t{bytes[at + 3]};
}

void repair_checksums(std::vector<std::uint8_t>& png) {
  std::size_t at = 8;
  while (at + 12 <= png.size()) {
    const std::size_t length = read_u32(png, at);
    if (length > png.size() - at - 12) return;
    const std::uint32_t crc = steadyflux::png_crc({png.data() + at + 4, length + 4});
    for (std::size_t i = 0; i < 4; ++i) {
      png[at + 8 + length + i] = static_cast<std::uint8_t>(crc >> (24 - 8 * i));
    }
    at += 12 + length;
  }
}

void read(const std::vector<std::uint8_t>& png) {
  try {
    for (const auto& [keyword, text] : steadyflux::parse_png_text(png, "fuzz.png")) {
      if (keyword == steadyflux::kPngSteadyflux) {
        const auto metadata = steadyflux::metadata_from_json(text, "fuzz.png");
        // What was understood must survive being written again.
        if (steadyflux::metadata_from_json(steadyflux::to_json(metadata), "again") != metadata) {
          __builtin_trap();
        }
      }
    }
  } catch (const steadyflux::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::vector<std::uint8_t> png(data, data + size);
  read(png);
  repair_checksums(png);
  read(png);
  return 0;
}
