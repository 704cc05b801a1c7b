// Pictures back from PNG and JPEG files, as steadyflux writes them, and from WebP files, which it
// only reads: for contact sheets, galleries and image to image. A file that is cut off or damaged
// is an error, and not a picture that is half grey.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "steadyflux/pipeline.h"

namespace steadyflux {

// 8 bits a channel; transparency is dropped. What the bytes are decides, not the file's name.
// Throws Error that names the file: kBadInput if it is missing, none of the three, cut off, an
// animation, damaged (PNG: by its checksums) or has more than 512 MiB of pixels, kIo if it cannot
// be read.
Image read_picture(const std::filesystem::path& path);
// The same from memory; `name` stands for the file in messages.
Image decode_picture(std::span<const std::uint8_t> bytes, const std::string& name);

struct PictureSize {
  std::int64_t width = 0;   // pixels
  std::int64_t height = 0;  // pixels
  std::int64_t file_bytes = 0;

  // What read_picture() takes of RAM at most, with the picture: the file, and the pixels twice, one
  // copy of them perhaps with transparency. (PNGs of 16 bits a channel take more.)
  std::int64_t reading_bytes() const { return file_bytes + 8 * width * height; }
};
// From the first bytes of the file alone. Throws as above.
PictureSize read_picture_size(const std::filesystem::path& path);

}  // namespace steadyflux
