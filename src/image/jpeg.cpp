#include "image/jpeg.h"

#include <fmt/format.h>

#include <algorithm>

#include "image/stb_pixels.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

constexpr std::size_t kMaxComment = 65533;  // a segment's 16-bit length counts itself

// The JFIF header must follow SOI at once, so comments go behind it.
std::size_t end_of_jfif_header(const std::vector<std::uint8_t>& jpeg) {
  if (jpeg.size() < 6 || jpeg[0] != 0xff || jpeg[1] != 0xd8 || jpeg[2] != 0xff || jpeg[3] != 0xe0) {
    throw Error(ErrorKind::kInternal, "the JPEG encoder wrote no JFIF header");
  }
  return 4u + jpeg[4] * 256u + jpeg[5];
}

}  // namespace

std::vector<std::uint8_t> encode_jpeg(std::int64_t width, std::int64_t height,
                                      std::span<const std::uint8_t> rgb, const std::string& comment,
                                      int quality) {
  if (quality < 1 || quality > 100) {
    throw Error(ErrorKind::kInternal, fmt::format("JPEG quality {}, expected 1..100", quality));
  }
  std::vector<std::uint8_t> jpeg = stb_jpeg(width, height, rgb, quality);
  std::vector<std::uint8_t> segments;
  for (std::size_t begin = 0; begin < comment.size(); begin += kMaxComment) {
    const std::size_t size = std::min(kMaxComment, comment.size() - begin);
    const std::size_t length = size + 2;
    segments.insert(segments.end(), {0xff, 0xfe, static_cast<std::uint8_t>(length >> 8),
                                     static_cast<std::uint8_t>(length & 0xff)});
    const auto* text = reinterpret_cast<const std::uint8_t*>(comment.data()) + begin;
    segments.insert(segments.end(), text, text + size);
  }
  const auto at = jpeg.begin() + static_cast<std::ptrdiff_t>(end_of_jfif_header(jpeg));
  jpeg.insert(at, segments.begin(), segments.end());
  return jpeg;
}

}  // namespace steadyflux
