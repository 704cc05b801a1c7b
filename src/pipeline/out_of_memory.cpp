#include "pipeline/out_of_memory.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <new>
#include <system_error>

namespace steadyflux {
namespace {

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

}  // namespace

std::optional<std::string> out_of_memory_detail(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return "";
  if (const auto* c10_error = dynamic_cast<const c10::Error*>(&error)) {
    // libtorch's messages carry a stack trace after the first line.
    const auto text = first_line(c10_error->what_without_backtrace());
    if (dynamic_cast<const c10::OutOfMemoryError*>(c10_error) != nullptr ||
        text.find("can't allocate memory") != std::string::npos) {
      return text;
    }
    return std::nullopt;
  }
  if (const auto* system = dynamic_cast<const std::system_error*>(&error)) {
    // A thread could not be started.
    if (system->code() == std::errc::resource_unavailable_try_again ||
        system->code() == std::errc::not_enough_memory) {
      return error.what();
    }
    return std::nullopt;
  }
  // oneDNN, under libtorch's matrix products, throws an exception of its own. These two come when
  // it cannot have memory for a kernel or a buffer; what it cannot compute it says at another
  // place.
  const std::string text = error.what();
  if (text == "could not create a primitive" || text == "could not create a memory object") {
    return "oneDNN: " + text;
  }
  return std::nullopt;
}

}  // namespace steadyflux
