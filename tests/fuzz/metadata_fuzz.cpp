// The JSON that came out of somebody's picture: either Error, or metadata that survive being
// written again and can be shown in the other form.
#include <cstddef>
#include <cstdint>
#include <string>

#include "image/metadata.h"
#include "steadyflux/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  steadyflux::PictureMetadata metadata;
  try {
    metadata = steadyflux::metadata_from_json(text, "fuzz.png");
  } catch (const steadyflux::Error&) {
    return 0;
  }
  if (steadyflux::metadata_from_json(steadyflux::to_json(metadata), "again") != metadata) {
    __builtin_trap();
  }
  if (steadyflux::a1111_parameters(metadata).find('\0') != std::string::npos) __builtin_trap();
  return 0;
}
