// What all who write files by descriptor share: the error they throw, writing to the end, and
// making names durable.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

#include "steadyflux/error.h"

namespace steadyflux {

// Error{kIo}: "PATH: what: the system's reason".
Error io_error(const std::filesystem::path& path, const char* what, int error);

// All of it; waits where `fd` is a pipe in non-blocking mode. Throws io_error that names `path`.
void write_all(int fd, std::span<const std::byte> bytes, const std::filesystem::path& path);

// Makes names that were made, changed or removed in `folder` durable. 0, or errno; file systems
// that cannot do it, and folders that may be written and not read, are passed over.
int sync_folder(const std::filesystem::path& folder);

}  // namespace steadyflux
