// Any bytes as a file of prompts; the first says in which format. Either an Error that begins with
// a line of the file and is fit for a terminal, or entries that keep what prompt_file.h promises,
// come back from JSON Lines as they were, and in text are what a stream gives line by line.
#include "batch/prompt_file.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/utf8.h"
#include "steadyflux/error.h"

namespace {

using steadyflux::PromptEntry;
using steadyflux::PromptFormat;
using Entries = std::vector<PromptEntry>;

constexpr PromptFormat kFormats[] = {PromptFormat::kText, PromptFormat::kJsonLines,
                                     PromptFormat::kCsv, PromptFormat::kTabs};

void require(bool condition) {
  if (!condition) __builtin_trap();
}

void check_error(const steadyflux::Error& error, std::int64_t lines) {
  require(error.kind() == steadyflux::ErrorKind::kBadInput);
  const std::string_view message = error.what();
  require(message.starts_with("f:"));
  const std::int64_t line = std::stoll(std::string(message.substr(2)));
  require(line >= 1 && line <= lines);
  for (const char c : message) require(c >= ' ' && c <= '~');
}

void check_entries(const Entries& entries, std::int64_t lines) {
  static const std::set<std::string> kNames = {"seed",
                                               "width",
                                               "height",
                                               "steps",
                                               "guidance",
                                               "output",
                                               "num-images",
                                               "max-sequence-length",
                                               "lora",
                                               "image",
                                               "mask",
                                               "strength",
                                               "reference",
                                               "reference-size",
                                               "control-image",
                                               "redux-image",
                                               "base-size",
                                               "scheduler",
                                               "sigmas",
                                               "shift",
                                               "compat",
                                               "cache-threshold",
                                               "prompt-2",
                                               "negative-prompt",
                                               "negative-prompt-2",
                                               "true-cfg-scale"};
  static const std::set<std::string> kMayBeEmpty = {"lora", "redux-image", "prompt-2",
                                                    "negative-prompt", "negative-prompt-2"};
  std::int64_t last = 0;
  for (const PromptEntry& entry : entries) {
    require(entry.line > last && entry.line <= lines);
    last = entry.line;
    require(steadyflux::is_valid_utf8(entry.prompt));
    require(entry.prompt.find('\0') == std::string::npos);
    for (const auto& [name, value] : entry.options) {
      require(kNames.contains(name));
      require(!value.empty() || kMayBeEmpty.contains(name));
      require(value.find('\0') == std::string::npos);
      require(steadyflux::is_valid_utf8(value));
    }
  }
}

// With every entry on its own line.
void check_round_trip(const Entries& entries) {
  std::string text;
  std::int64_t line = 0;
  for (const PromptEntry& entry : entries) {
    for (; line + 1 < entry.line; ++line) text += '\n';
    nlohmann::json object(entry.options);
    if (entry.options.empty()) object = nlohmann::json::object();
    object["prompt"] = entry.prompt;
    text += object.dump() + '\n';
    ++line;
  }
  require(steadyflux::parse_prompts(text, PromptFormat::kJsonLines, "f") == entries);
  require(steadyflux::parse_prompts(text, PromptFormat::kText, "f") == entries);
}

void check_lines(std::string_view text, const Entries& entries) {
  Entries again;
  for (std::int64_t number = 1; !text.empty(); ++number) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const auto entry = steadyflux::parse_prompt_line(text.substr(0, end), number);
    if (entry) again.push_back(*entry);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  require(again == entries);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const PromptFormat format = kFormats[data[0] % std::size(kFormats)];
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::int64_t lines = std::count(text.begin(), text.end(), '\n') + 1;
  Entries entries;
  try {
    entries = steadyflux::parse_prompts(text, format, "f");
  } catch (const steadyflux::Error& error) {
    check_error(error, lines);
    return 0;
  }
  check_entries(entries, lines);
  check_round_trip(entries);
  if (format == PromptFormat::kText) check_lines(text, entries);
  return 0;
}
