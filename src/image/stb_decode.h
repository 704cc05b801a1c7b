// Compressed bytes to pixels through stb_image, for read_picture.cpp, which checks what stb_image
// does not and states the errors.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace steadyflux {

struct StbSize {
  std::int64_t width = 0;   // pixels
  std::int64_t height = 0;  // pixels
};

struct StbPixels {
  StbSize size;
  std::unique_ptr<std::uint8_t, void (*)(void*)> rgb{nullptr, nullptr};
  std::string problem;  // why it failed, in stb's few words; "" if it did not
};

// From the header, without pixels. At most 2 GiB of bytes, for stb_decode as well.
StbPixels stb_read_header(std::span<const std::uint8_t> bytes);
StbPixels stb_decode(std::span<const std::uint8_t> bytes);

}  // namespace steadyflux
