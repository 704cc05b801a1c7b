// The one place where stb_image_write's code is compiled, and the only one that sees its macros.
// The header comes from a system folder, so its warnings are not ours; nor is what the static
// analyser finds in it.
#ifndef __clang_analyzer__
#define STB_IMAGE_WRITE_IMPLEMENTATION
#endif
#define STBI_WRITE_NO_STDIO
#include "image/stb_pixels.h"

#include <fmt/format.h>
#include <stb_image_write.h>

#include "steadyflux/error.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kMaxPixelBytes = std::int64_t{512} << 20;  // stb counts in int

void append(void* context, void* data, int size) {
  const auto* bytes = static_cast<const std::uint8_t*>(data);
  static_cast<std::vector<std::uint8_t>*>(context)->insert(
      static_cast<std::vector<std::uint8_t>*>(context)->end(), bytes, bytes + size);
}

void check_pixels(std::int64_t width, std::int64_t height, std::span<const std::uint8_t> rgb) {
  if (width < 1 || height < 1 || width > kMaxPixelBytes || height > kMaxPixelBytes ||
      static_cast<std::int64_t>(rgb.size()) % 3 != 0 ||
      width * height != static_cast<std::int64_t>(rgb.size()) / 3) {
    throw Error(ErrorKind::kInternal, fmt::format("a picture of {} x {} with {} bytes of pixels",
                                                  width, height, rgb.size()));
  }
  if (static_cast<std::int64_t>(rgb.size()) > kMaxPixelBytes) {
    throw Error(ErrorKind::kUsage,
                fmt::format("a picture of {} x {} is too large for a file: at most 512 MiB of "
                            "pixels (13377 x 13377); ask for a smaller one",
                            width, height));
  }
}

Error encoder_failed(const char* format) {
  return Error(ErrorKind::kDoesNotFit,
               fmt::format("the {} encoder could not get the memory it needs", format));
}

}  // namespace

std::vector<std::uint8_t> stb_png(std::int64_t width, std::int64_t height,
                                  std::span<const std::uint8_t> rgb) {
  check_pixels(width, height, rgb);
  std::vector<std::uint8_t> bytes;
  const int w = static_cast<int>(width);
  const int h = static_cast<int>(height);
  if (stbi_write_png_to_func(append, &bytes, w, h, 3, rgb.data(), w * 3) == 0) {
    throw encoder_failed("PNG");
  }
  return bytes;
}

std::vector<std::uint8_t> stb_jpeg(std::int64_t width, std::int64_t height,
                                   std::span<const std::uint8_t> rgb, int quality) {
  check_pixels(width, height, rgb);
  if (width > 65535 || height > 65535) {
    throw Error(ErrorKind::kUsage, fmt::format("a picture of {} x {} cannot be a JPEG, whose sides "
                                               "are at most 65535; write a .png",
                                               width, height));
  }
  std::vector<std::uint8_t> bytes;
  if (stbi_write_jpg_to_func(append, &bytes, static_cast<int>(width), static_cast<int>(height), 3,
                             rgb.data(), quality) == 0) {
    throw encoder_failed("JPEG");
  }
  return bytes;
}

}  // namespace steadyflux
