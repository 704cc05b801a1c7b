// PNG out (pixels through stb_image_write, text chunks put in here) and PNG text back in. The
// reader takes files from anywhere, so every length and checksum is checked. Format: W3C PNG, third
// edition.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace steadyflux {

// Keywords of the two text chunks.
inline constexpr const char* kPngParameters = "parameters";  // what A1111 and Forge write
inline constexpr const char* kPngSteadyflux = "steadyflux";  // our JSON: see metadata.h

// UTF-8; an empty text is left out of the file.
struct PngText {
  std::string parameters;
  std::string steadyflux;
};

// 8-bit RGB PNG; `rgb` holds width * height * 3 bytes, rows from top to bottom. The same input
// gives the same bytes. `parameters` becomes tEXt if Latin-1 can say it, else iTXt; `steadyflux` is
// iTXt. Throws Error: kUsage if the picture has more than 512 MiB of pixels or text is no UTF-8,
// kInternal if the sizes do not belong together.
std::vector<std::uint8_t> encode_png(std::int64_t width, std::int64_t height,
                                     std::span<const std::uint8_t> rgb, const PngText& text);

// Keyword -> UTF-8 text of all tEXt and uncompressed iTXt chunks. Compressed text (zTXt, iTXt with
// its flag set) is passed over: steadyflux and A1111 never write it. Bytes after IEND are ignored.
// Throws Error{kBadInput} that names the file if it is no PNG, is cut off, has a wrong checksum, a
// text chunk above 64 MiB or two texts for one keyword that differ.
std::map<std::string, std::string> read_png_text(const std::filesystem::path& path);
// The same from memory; `name` stands for the file in messages.
std::map<std::string, std::string> parse_png_text(std::span<const std::uint8_t> bytes,
                                                  const std::string& name);

// The CRC-32 of PNG over `bytes`.
std::uint32_t png_crc(std::span<const std::uint8_t> bytes);

}  // namespace steadyflux
