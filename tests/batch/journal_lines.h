// Lines for tests of the journal, and the journal's file read without it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/json.h"
#include "batch/journal.h"
#include "temp_folder.h"

namespace steadyflux {

inline constexpr const char* kJournalName = "journal.jsonl";

inline nlohmann::json done_line(const std::string& output, const std::string& settings = "key",
                                std::int64_t bytes = 10) {
  nlohmann::json line = journal_line("done", output);
  line["settings"] = settings;
  line["bytes"] = bytes;
  line["prompt"] = "a \"red\" apple\n";
  return line;
}

inline std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::size_t begin = 0;
  for (std::size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    lines.push_back(text.substr(begin, end - begin));
  }
  EXPECT_EQ(begin, text.size()) << "the last line has no newline";
  return lines;
}

// Checks that each line of the file is whole, and gives them back.
inline std::vector<nlohmann::json> parsed_lines(const TempFolder& folder) {
  std::vector<nlohmann::json> result;
  for (const std::string& line : lines_of(folder.read(kJournalName))) {
    result.push_back(parse_json(line, kJournalName));
  }
  return result;
}

// How many whole lines there are; the last one may be cut.
inline std::size_t whole_lines(const TempFolder& folder) {
  const std::string text = folder.read(kJournalName);
  return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
}

}  // namespace steadyflux
