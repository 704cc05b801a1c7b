#include "base/file.h"

#include <fmt/format.h>
#include <algorithm>
#include <system_error>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "steadyflux/error.h"

namespace steadyflux {

std::string read_text_file(const std::filesystem::path& path, std::size_t max_bytes) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::not_found) {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: file not found", path.string()));
  }
  if (error) {
    throw Error(ErrorKind::kIo, fmt::format("{}: {}", path.string(), error.message()));
  }
  if (!std::filesystem::is_regular_file(status)) {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: not a regular file", path.string()));
  }
  errno = 0;
  std::ifstream stream(path, std::ios::binary);
  if (!stream) {
    throw Error(ErrorKind::kIo,
                fmt::format("{}: cannot open: {}", path.string(), std::strerror(errno)));
  }
  std::string text;
  char buffer[1 << 16];
  while (stream.read(buffer, sizeof buffer) || stream.gcount() > 0) {
    text.append(buffer, static_cast<std::size_t>(stream.gcount()));
    if (text.size() > max_bytes) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{}: larger than {} bytes, which no file of this kind is",
                              path.string(), max_bytes));
    }
  }
  if (stream.bad()) {
    throw Error(ErrorKind::kIo, fmt::format("{}: reading failed", path.string()));
  }
  return text;
}

std::vector<std::filesystem::path> sorted_entries(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> found;
  std::error_code error;
  std::filesystem::directory_iterator it(folder, error);
  for (const std::filesystem::directory_iterator end; !error && it != end; it.increment(error)) {
    found.push_back(it->path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace steadyflux
