// What `unpack` (quantization/packed_values.h) does on the CPU, of libtorch's operations alone, for
// devices. The values are the same to the bit.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <vector>

#include "quantization/packed_values.h"

namespace steadyflux {

// `parts`: the bytes of values, scales, absmax and nested_absmax (kByte), undefined where a format
// has none, all on one device. `layout` says how they are to be read; of its pointers only those to
// code tables are used. -> [shape], on that device.
at::Tensor unpack_on_device(const PackedValues& layout, const std::array<at::Tensor, 4>& parts,
                            const std::vector<std::int64_t>& shape, at::ScalarType dtype);

}  // namespace steadyflux
