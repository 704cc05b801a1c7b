// What the libraries give that read compressed pictures: stb_image, libwebp.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace steadyflux {

struct DecodedSize {
  std::int64_t width = 0;   // pixels
  std::int64_t height = 0;  // pixels
};

struct DecodedPixels {
  DecodedSize size;
  std::unique_ptr<std::uint8_t, void (*)(void*)> rgb{nullptr, nullptr};
  std::string problem = {};  // why it failed, in the library's few words; "" if it did not
  bool out_of_memory = false;
};

}  // namespace steadyflux
