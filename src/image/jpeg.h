// JPEG out, for pictures that are to be small. JPEG text cannot bring back a picture: only a PNG
// carries what `--from` reads.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace steadyflux {

// Baseline JPEG (4:4:4 above quality 90); `rgb` as in encode_png, quality 1..100. `comment` (UTF-8,
// may be empty) goes into COM segments, several if it is longer than 65533 bytes. Throws Error:
// kUsage if a side is longer than 65535 pixels or the picture has more than 512 MiB of pixels,
// kInternal if the sizes do not belong together.
std::vector<std::uint8_t> encode_jpeg(std::int64_t width, std::int64_t height,
                                      std::span<const std::uint8_t> rgb, const std::string& comment,
                                      int quality = 95);

}  // namespace steadyflux
