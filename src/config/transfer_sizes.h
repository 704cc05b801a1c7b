// How much of the weights is under way at once, for those who move them (src/nn, src/residency) and
// those who foretell what it takes (src/memory).
#pragma once

#include <cstdint>

namespace steadyflux {

constexpr std::int64_t kFileChunkBytes = std::int64_t{16} << 20;  // of a file, read or converted
// Pinned buffers that take turns in passing values on to a device.
constexpr std::int64_t kPinnedBufferBytes = std::int64_t{32} << 20;
constexpr std::int64_t kPinnedBuffers = 2;

// Tensors in a unit's buffer begin at multiples of this many bytes, as those that CUDA's allocator
// gives.
constexpr std::int64_t kTensorAlignment = 512;

}  // namespace steadyflux
