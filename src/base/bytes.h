// Sizes as people write them: "6GiB", "500MB", "1024".
#pragma once

#include <cstdint>
#include <string>

namespace steadyflux {

// Throws Error{kUsage} that names `text` and the forms accepted. KiB/MiB/GiB/TiB are powers of
// 1024, KB/MB/GB/TB powers of 1000, K/M/G/T as KiB...; fractions ("1.5GiB") are accepted.
std::int64_t parse_bytes(const std::string& text);
// The next multiple, or the value itself if it is one.
inline std::int64_t rounded_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}
// "1.50 GiB"
std::string format_bytes(std::int64_t bytes);

}  // namespace steadyflux
