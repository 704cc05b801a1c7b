// A piece of a tensor, some rows of it, on its way from one type to another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "quantization/dtype.h"
#include "weights/stored_tensor.h"

namespace steadyflux {

struct PackedPiece {
  std::vector<std::byte> bytes;
  double squared_error = 0;     // sum of (new - old)^2
  double squared_values = 0;    // sum of old^2
  std::int64_t not_finite = 0;  // old values that are NaN or infinite; in no sum
  std::int64_t beyond = 0;      // finite ones that became NaN or infinite; in no sum either
  std::int64_t not_zero = 0;    // finite old values that are not 0
  std::int64_t vanished = 0;    // of these, those that became 0
};

// Values [first, first + count) of `rows` as `dtype`; whole rows, or any number of values for types
// that are no blocks. `scale`: of 8-bit floats. From any thread.
PackedPiece pack_piece(const StoredRows& rows, std::int64_t first, std::int64_t count, DType dtype,
                       float scale);

// The largest finite magnitude among them.
float largest_magnitude(const StoredRows& rows, std::int64_t first, std::int64_t count);

}  // namespace steadyflux
