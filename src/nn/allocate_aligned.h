// Memory for much at once: weights that are read from files, or unpacked.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace steadyflux {

// `size` bytes on the CPU, aligned for uncached reads; in large pages if the system has them.
at::Tensor allocate_aligned(std::int64_t size);

}  // namespace steadyflux
