#include "image/webp.h"

#include <webp/decode.h>

#include <algorithm>
#include <string_view>

namespace steadyflux {
namespace {

// "RIFF", the size of what follows (four bytes, the lowest first), "WEBP".
constexpr std::size_t kRiffHeader = 8;
constexpr std::size_t kHeader = 12;

bool has_tag(std::span<const std::uint8_t> bytes, std::size_t at, std::string_view tag) {
  return std::equal(
      tag.begin(), tag.end(), bytes.begin() + static_cast<std::ptrdiff_t>(at),
      [](char wanted, std::uint8_t byte) { return static_cast<std::uint8_t>(wanted) == byte; });
}

std::string problem_of(VP8StatusCode status) {
  switch (status) {
    case VP8_STATUS_OK:
      return "";
    case VP8_STATUS_OUT_OF_MEMORY:
      return "out of memory";
    case VP8_STATUS_NOT_ENOUGH_DATA:
      return "cut off";
    case VP8_STATUS_UNSUPPORTED_FEATURE:
      return "of a kind that libwebp does not know";
    default:
      return "bad data";
  }
}

}  // namespace

bool is_webp(std::span<const std::uint8_t> bytes) {
  return bytes.size() >= kHeader && has_tag(bytes, 0, "RIFF") && has_tag(bytes, 8, "WEBP");
}

bool webp_is_whole(std::span<const std::uint8_t> bytes) {
  std::uint64_t size = 0;
  for (std::size_t i = 0; i < 4; ++i) size |= std::uint64_t{bytes[4 + i]} << (8 * i);
  return bytes.size() - kRiffHeader >= size;
}

DecodedPixels webp_read_header(std::span<const std::uint8_t> bytes) {
  DecodedPixels pixels;
  WebPBitstreamFeatures features;
  pixels.problem = problem_of(WebPGetFeatures(bytes.data(), bytes.size(), &features));
  if (!pixels.problem.empty()) return pixels;
  if (features.has_animation != 0) pixels.problem = kAnimation;
  pixels.size = {.width = features.width, .height = features.height};
  return pixels;
}

DecodedPixels webp_decode(std::span<const std::uint8_t> bytes) {
  DecodedPixels pixels;
  WebPDecoderConfig config;
  WebPInitDecoderConfig(&config);
  config.output.colorspace = MODE_RGB;
  const auto status = WebPDecode(bytes.data(), bytes.size(), &config);
  pixels.problem = problem_of(status);
  pixels.out_of_memory = status == VP8_STATUS_OUT_OF_MEMORY;
  if (status != VP8_STATUS_OK) {
    WebPFreeDecBuffer(&config.output);
    return pixels;
  }
  pixels.size = {.width = config.output.width, .height = config.output.height};
  pixels.rgb = {config.output.u.RGBA.rgba, WebPFree};  // rows without padding
  return pixels;
}

}  // namespace steadyflux
