// Which exceptions mean that memory ran out, on the device or in RAM. libtorch, oneDNN and the C++
// library each have their own.
#pragma once

#include <exception>
#include <optional>
#include <string>

namespace steadyflux {

// What ran out, in a few words ("" if there is nothing to add); nothing if `error` is another
// error.
std::optional<std::string> out_of_memory_detail(const std::exception& error);

}  // namespace steadyflux
