// Reading the small text files of /proc and /sys, shared by the probe and the monitor. A file that
// is missing or reads oddly is an absent value, never an error: other systems have no such files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace steadyflux {

// The first 64 KiB of a file; nothing if it cannot be read.
std::optional<std::string> read_small_file(const std::filesystem::path& path);

// A non-negative decimal number at the start of `text` (blanks before it are skipped).
std::optional<std::int64_t> leading_number(std::string_view text);

// The number after "KEY" at the start of a line: number_after(status, "VmRSS:").
std::optional<std::int64_t> number_after(std::string_view text, std::string_view key);

}  // namespace steadyflux
