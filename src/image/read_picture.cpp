#include "image/read_picture.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <system_error>

#include "base/file.h"
#include "base/file_io.h"
#include "image/png.h"
#include "image/stb_decode.h"
#include "image/webp.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

using Bytes = std::span<const std::uint8_t>;

constexpr std::int64_t kMaxPixelBytes = std::int64_t{512} << 20;  // as for pictures written
constexpr std::size_t kMaxFile = std::size_t{600} << 20;
constexpr std::size_t kHeader = std::size_t{1} << 20;

Error bad_picture(const std::string& name, const std::string& problem) {
  return Error(ErrorKind::kBadInput, fmt::format("{}: {}", name, problem));
}

Bytes as_bytes(const std::string& text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

bool is_png(Bytes bytes) {
  constexpr std::array<std::uint8_t, 8> kSignature = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
  return bytes.size() >= kSignature.size() &&
         std::equal(kSignature.begin(), kSignature.end(), bytes.begin());
}

bool is_jpeg(Bytes bytes) {
  return bytes.size() >= 3 && bytes[0] == 0xff && bytes[1] == 0xd8 && bytes[2] == 0xff;
}

DecodedPixels read_header(Bytes bytes) {
  return is_webp(bytes) ? webp_read_header(bytes) : stb_read_header(bytes);
}

// stb_image passes over checksums, and fills what is missing of a JPEG with grey; a WebP decodes
// without its last bytes where these are not needed.
void check_whole(Bytes bytes, const std::string& name) {
  if (is_png(bytes)) {
    parse_png_text(bytes, name);
  } else if (is_webp(bytes)) {
    if (!webp_is_whole(bytes)) throw bad_picture(name, "the WebP file is cut off");
  } else if (bytes[bytes.size() - 2] != 0xff || bytes[bytes.size() - 1] != 0xd9) {
    throw bad_picture(name, "the JPEG file is cut off: its end marker is missing");
  }
}

DecodedSize checked_size(Bytes bytes, const std::string& name) {
  if (!is_png(bytes) && !is_jpeg(bytes) && !is_webp(bytes)) {
    throw bad_picture(name, "neither a PNG, nor a JPEG, nor a WebP file");
  }
  const DecodedPixels header = read_header(bytes);
  const auto [width, height] = header.size;
  // stb_image says the same of a damaged header and of a size above its own limit of 1 GiB.
  if (header.problem == kAnimation) throw bad_picture(name, "an animation; give one picture");
  if (!header.problem.empty()) {
    throw bad_picture(name, "a picture that is damaged or has more than 512 MiB of pixels");
  }
  if (width * height > kMaxPixelBytes / 3) {
    throw bad_picture(
        name,
        fmt::format("a picture of {} x {}, which has more than 512 MiB of pixels", width, height));
  }
  return header.size;
}

}  // namespace

Image decode_picture(Bytes bytes, const std::string& name) {
  if (bytes.size() > kMaxFile) {
    throw bad_picture(name, fmt::format("larger than {} bytes, which no picture is", kMaxFile));
  }
  const DecodedSize size = checked_size(bytes, name);
  check_whole(bytes, name);
  const DecodedPixels pixels = is_webp(bytes) ? webp_decode(bytes) : stb_decode(bytes);
  if (pixels.rgb == nullptr) {
    if (pixels.out_of_memory) {
      throw Error(ErrorKind::kDoesNotFit,
                  fmt::format("{}: no memory for a picture of {} x {} pixels", name, size.width,
                              size.height));
    }
    throw bad_picture(name, fmt::format("a damaged picture ({})", pixels.problem));
  }
  Image image;
  image.width = pixels.size.width;
  image.height = pixels.size.height;
  image.rgb.assign(pixels.rgb.get(), pixels.rgb.get() + image.width * image.height * 3);
  return image;
}

Image read_picture(const fs::path& path) {
  return decode_picture(as_bytes(read_text_file(path, kMaxFile)), path.string());
}

PictureSize read_picture_size(const fs::path& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) {
    throw bad_picture(path.string(), error ? error.message() : "not a regular file");
  }
  errno = 0;
  std::ifstream stream(path, std::ios::binary);
  std::string bytes(kHeader, '\0');
  stream.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!stream.is_open() || stream.bad()) {
    throw io_error(path, "cannot be read", errno);
  }
  bytes.resize(static_cast<std::size_t>(stream.gcount()));
  const DecodedSize size = checked_size(as_bytes(bytes), path.string());
  const auto file_bytes = static_cast<std::int64_t>(fs::file_size(path, error));
  return {.width = size.width, .height = size.height, .file_bytes = error ? 0 : file_bytes};
}

}  // namespace steadyflux
