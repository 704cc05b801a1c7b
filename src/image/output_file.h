// Putting a picture where it was asked to go: whole or not at all. What can be known to fail is
// found out before the work begins; a file appears under its name only when it is complete.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

namespace steadyflux {

enum class PictureFormat { kPng, kJpeg };

// By extension, in any case: .png, .jpg, .jpeg. Throws Error{kUsage} for all others.
PictureFormat picture_format(const std::filesystem::path& path);

// Called before anything is loaded. Throws Error: kUsage for an extension that is not supported;
// kIo if the parent folder is missing (it is never made), is no folder or cannot be written to, or
// `path` is a folder. Devices and FIFOs need the right to write to themselves only.
void check_output_path(const std::filesystem::path& path);

// Writes a file without a name in the same folder (where the file system has such files, else a
// temporary one), then gives it the name: `path` is either as it was or complete and on the disk.
// No temporary file is left behind on failure. What is there and is no regular file (/dev/stdout, a
// FIFO) is written straight into; a symbolic link to a file stays, and the file is replaced. Throws
// Error{kIo} with the path and the system's reason.
void write_file_atomically(const std::filesystem::path& path, std::span<const std::uint8_t> bytes);
// The same of bytes that lie apart, one behind the other.
using FileParts = std::span<const std::span<const std::uint8_t>>;
void write_file_atomically(const std::filesystem::path& path, FileParts parts);

// Removes temporary files in `folder` (not below it) that were left by a process that was killed;
// those that are being written stay. What cannot be read or removed stays too, without an error.
void remove_stale_temporaries(const std::filesystem::path& folder);

// Makes names that were made, changed or removed in `folder` durable. File systems that cannot do
// that are passed over. Throws Error{kIo}.
void flush_folder(const std::filesystem::path& folder);

// Throws Error{kIo}, also if the reader went away (SIGPIPE is blocked meanwhile).
void write_stdout(std::span<const std::uint8_t> bytes);

}  // namespace steadyflux
