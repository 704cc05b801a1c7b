// The one place where stb_image's code is compiled, for the two formats that steadyflux writes. As
// with stb_image_write, warnings and findings in it are not ours.
#ifndef __clang_analyzer__
#define STB_IMAGE_IMPLEMENTATION
#endif
#define STBI_ONLY_PNG
#define STBI_ONLY_JPEG
#define STBI_NO_STDIO
#include <stb_image.h>

#include "image/stb_decode.h"

namespace steadyflux {

DecodedPixels stb_read_header(std::span<const std::uint8_t> bytes) {
  DecodedPixels pixels;
  int width = 0;
  int height = 0;
  int channels = 0;
  if (stbi_info_from_memory(bytes.data(), static_cast<int>(bytes.size()), &width, &height,
                            &channels) == 0) {
    pixels.problem = stbi_failure_reason();
  }
  pixels.size = {.width = width, .height = height};
  return pixels;
}

DecodedPixels stb_decode(std::span<const std::uint8_t> bytes) {
  DecodedPixels pixels;
  int width = 0;
  int height = 0;
  int channels = 0;
  pixels.rgb = {stbi_load_from_memory(bytes.data(), static_cast<int>(bytes.size()), &width, &height,
                                      &channels, 3),
                stbi_image_free};
  pixels.size = {.width = width, .height = height};
  if (pixels.rgb == nullptr) pixels.problem = stbi_failure_reason();
  pixels.out_of_memory = pixels.problem == "outofmem";
  return pixels;
}

}  // namespace steadyflux
