// The dtypes that are computed in, and how the command line calls them.
#pragma once

#include <c10/core/ScalarType.h>

#include <optional>
#include <string>

namespace steadyflux {

// bf16, fp16 or fp32; nothing for any other text.
std::optional<at::ScalarType> dtype_of_name(const std::string& name);
// The reverse; "fp32" for every other dtype.
std::string dtype_name(at::ScalarType dtype);
// "bf16", or, where blocks multiply in something else, "bf16 with products in int8".
std::string dtype_text(const std::string& dtype, const std::string& compute);

}  // namespace steadyflux
