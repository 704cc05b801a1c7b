// Names for the pictures of one request.
#pragma once

#include <cstdint>
#include <filesystem>

namespace steadyflux {

// Picture `index` (from 0) of `count`: out.png if it is the only one; else out-1.png ... out-4.png,
// padded with zeros to the width of `count` so that they sort.
std::filesystem::path numbered_path(const std::filesystem::path& path, std::int64_t index,
                                    std::int64_t count);

}  // namespace steadyflux
