// The prompts of a batch: a text, JSON Lines or CSV file, or lines that come through a pipe. What
// is wrong is found here with its line, except for the ranges of values (is the width a multiple of
// 16?): those belong to the options, and who checks options puts file and line before the message.
// docs/prompt-files.md is the description for users.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace steadyflux {

struct PromptEntry {
  std::int64_t line = 0;  // of its file or stream, counted from 1
  std::string prompt;     // UTF-8 without NUL characters; may be empty in JSON only
  // Long option names without dashes ("width", "num-images") -> values as one would type them.
  std::map<std::string, std::string> options;

  bool operator==(const PromptEntry&) const = default;
};

enum class PromptFormat { kText, kJsonLines, kCsv, kTabs };

inline constexpr std::size_t kLargestPromptFile = 64u << 20;  // bytes
inline constexpr std::size_t kLongestPromptLine = 4u << 20;   // bytes, without the newline

// By the extension, in either case: .jsonl .ndjson .json, .csv, .tsv and .tab, all else is text. In
// text, a line whose first character is '{' is read as JSON (as in streams).
PromptFormat prompt_format_of(const std::filesystem::path& path);

// The entries in their order; empty if there is nothing but comments and blank lines. Pipes
// (<(command), /dev/stdin) are read to their end. Throws Error: kBadInput "FILE:LINE: what, and
// what to do", or "FILE: ..." if it is missing or too large; kIo if it cannot be read.
std::vector<PromptEntry> read_prompt_file(const std::filesystem::path& path);
// The same from memory; `name` is how errors call it.
std::vector<PromptEntry> parse_prompts(std::string_view text, PromptFormat format,
                                       const std::string& name);

// One line of a stream, without its newline: a prompt, or a JSON object. Nothing for blank lines
// and comments. Throws Error{kBadInput} without a file name.
std::optional<PromptEntry> parse_prompt_line(std::string_view line, std::int64_t number);

}  // namespace steadyflux
