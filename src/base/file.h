// Whole small text files (configurations, indices), with the errors a user can act on; and what is
// in a folder.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

namespace steadyflux {

// The content of a regular file of at most `max_bytes`. Throws Error: kBadInput if it is missing,
// not a regular file or larger; kIo if it cannot be read.
std::string read_text_file(const std::filesystem::path& path, std::size_t max_bytes = 64u << 20);

// What is in a folder, sorted; nothing where it cannot be read.
std::vector<std::filesystem::path> sorted_entries(const std::filesystem::path& folder);

}  // namespace steadyflux
