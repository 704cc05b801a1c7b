#include "pipeline/out_of_memory.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <charconv>
#include <cstdint>
#include <new>
#include <string_view>
#include <system_error>

#include "base/bytes.h"

namespace steadyflux {
namespace {

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

// The size in libtorch's "you tried to allocate 4096 bytes." (CPU) or "Tried to allocate 20.00
// MiB." (devices); the whole text where there is none.
std::string refused_allocation(const std::string& text) {
  constexpr std::string_view kWords = "ried to allocate ";
  const auto words = text.find(kWords);
  if (words == std::string::npos) return text;
  const auto size = text.substr(words + kWords.size());
  const auto unit = size.find(' ');
  if (unit == std::string::npos) return text;
  if (size.compare(unit + 1, 5, "bytes") != 0) {
    return fmt::format("no room for {}", size.substr(0, size.find_first_of(". ", unit + 1)));
  }
  std::int64_t bytes = 0;
  const auto [end, error] = std::from_chars(size.data(), size.data() + unit, bytes);
  if (error != std::errc{} || end != size.data() + unit) return text;
  return fmt::format("no room for {}", format_bytes(bytes));
}

}  // namespace

std::optional<std::string> out_of_memory_detail(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return "";
  if (const auto* c10_error = dynamic_cast<const c10::Error*>(&error)) {
    // libtorch's messages carry a stack trace after the first line.
    const auto text = first_line(c10_error->what_without_backtrace());
    if (dynamic_cast<const c10::OutOfMemoryError*>(c10_error) != nullptr ||
        text.find("can't allocate memory") != std::string::npos) {
      return refused_allocation(text);
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
