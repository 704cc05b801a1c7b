#include "batch/prompt_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/utf8.h"
#include "batch/csv.h"
#include "batch/prompt_keys.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

using nlohmann::json;

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
constexpr std::string_view kBlanks = " \t\v\f\r";

[[noreturn]] void bad(const std::string& what) { throw Error(ErrorKind::kBadInput, what); }

std::string_view trim(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) + 1 - begin);
}

struct Fault {
  std::size_t at;
  std::string what;
};

// The first byte that no prompt file may have. What is said of it counts bytes from its line's
// first.
std::optional<Fault> find_bad_character(std::string_view text) {
  if (text.starts_with("\xFF\xFE") || text.starts_with("\xFE\xFF")) {
    return Fault{0, "this is UTF-16; convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)"};
  }
  const std::size_t nul = text.find('\0');
  const std::size_t invalid = find_invalid_utf8(text.substr(0, nul));
  const std::size_t at = std::min(nul, invalid);
  if (at == std::string_view::npos) return std::nullopt;
  const std::size_t line_end = text.substr(0, at).rfind('\n');
  const std::size_t column = line_end == std::string_view::npos ? at + 1 : at - line_end;
  if (invalid == std::string_view::npos) {
    return Fault{at, fmt::format("byte {} is NUL; remove it, or convert the text to UTF-8 if it is "
                                 "UTF-16",
                                 column)};
  }
  return Fault{at, fmt::format("byte {} is not UTF-8; convert the text to UTF-8", column)};
}

// Receives the values of one line and throws at the first that has no place in an entry. Numbers
// stay the text they are, so that no digit of a seed is lost.
class ObjectReader : public nlohmann::json_sax<json> {
 public:
  // `length` is that of the object's text, `offset` where it begins in its line.
  ObjectReader(PromptEntry& entry, std::size_t length, std::size_t offset)
      : entry_(entry), length_(length), offset_(offset) {}

  bool key(std::string& key) override {
    key_ = key;
    name_ = keys_.claim(key);
    return true;
  }
  bool string(std::string& value) override { return add(std::move(value)); }
  bool number_integer(std::int64_t value) override { return number(fmt::to_string(value)); }
  bool number_unsigned(std::uint64_t value) override { return number(fmt::to_string(value)); }
  bool number_float(double, const std::string& text) override { return number(text); }
  bool null() override { wrong_type("null"); }
  bool boolean(bool value) override { wrong_type(value ? "true" : "false"); }
  bool binary(json::binary_t&) override { wrong_type("binary"); }
  bool start_array(std::size_t) override {
    if (!takes_list() || in_list_) wrong_type("an array");
    in_list_ = true;
    return true;
  }
  bool end_array() override {
    in_list_ = false;
    return set(std::exchange(list_, {}));
  }
  bool start_object(std::size_t) override {
    if (is_open_) wrong_type("an object");
    is_open_ = true;
    return true;
  }
  bool end_object() override {
    is_complete_ = true;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    constexpr int kNumberOutOfRange = 406;
    if (error.id == kNumberOutOfRange) {
      bad(fmt::format("{}: the number is out of range", quoted_key(key_)));
    }
    if (is_complete_)
      bad("something follows the JSON object; put every object on a line of its own");
    if (position > length_) {
      bad("the JSON object is not closed; put all of it on one line (jq -c . does that)");
    }
    bad(
        fmt::format("not valid JSON at byte {}; a prompt that begins with a brace is written "
                    "{{\"prompt\": \"{{...\"}}",
                    offset_ + position));
  }

  void finish() const {
    if (!keys_.has("prompt")) bad("the JSON object has no \"prompt\"; add one");
  }

 private:
  [[noreturn]] void wrong_type(const char* type) const {
    const char* expected = name_ == "sigmas" ? "a string or a list of numbers"
                           : takes_list()    ? "a string or a list of strings"
                           : takes_string()  ? "a string"
                                             : "a number";
    bad(fmt::format("{} is {}, expected {}", quoted_key(key_), type, expected));
  }
  bool takes_string() const {
    const auto value = prompt_value(name_);
    return value == PromptValue::kText || value == PromptValue::kString;
  }
  bool takes_list() const { return name_ == "lora" || name_ == "redux-image" || name_ == "sigmas"; }
  bool number(std::string text) {
    if (takes_string()) wrong_type("a number");
    return add(std::move(text));
  }
  // A value, or one of a list.
  bool add(std::string value) {
    if (!in_list_) return set(std::move(value));
    list_ += (list_.empty() ? "" : "\n") + value;
    return true;
  }
  bool set(std::string value) {
    set_prompt_value(entry_, name_, key_, std::move(value));
    return true;
  }

  PromptEntry& entry_;
  std::size_t length_;
  std::size_t offset_;
  PromptKeys keys_;
  std::string key_;   // as written
  std::string name_;  // of the option
  bool in_list_ = false;
  std::string list_;  // one a line
  bool is_open_ = false;
  bool is_complete_ = false;
};

std::optional<PromptEntry> parse_line(std::string_view line, std::int64_t number,
                                      PromptFormat format) {
  if (line.size() > kLongestPromptLine) {
    bad(fmt::format("the line has {} bytes, {} at most are taken; shorten the prompt", line.size(),
                    kLongestPromptLine));
  }
  if (const auto fault = find_bad_character(line)) bad(fault->what);
  const char* const begin = line.data();
  // Files that were joined have such marks at any line.
  if (line.starts_with(kByteOrderMark)) line.remove_prefix(kByteOrderMark.size());
  line = trim(line);
  if (line.empty()) return std::nullopt;
  PromptEntry entry;
  entry.line = number;
  if (line.front() == '{') {
    ObjectReader reader(entry, line.size(), static_cast<std::size_t>(line.data() - begin));
    json::sax_parse(line.begin(), line.end(), &reader);
    reader.finish();
    return entry;
  }
  if (format == PromptFormat::kJsonLines) {
    if (line.front() == '[') {
      bad("a JSON array, expected an object on every line (jq -c '.[]' makes them)");
    }
    bad("expected a JSON object, such as {\"prompt\": \"a red apple\"}");
  }
  if (line.front() == '#') return std::nullopt;
  if (line.find('\r') != std::string_view::npos) {
    bad("a carriage return inside the line; end lines with LF or CRLF");
  }
  entry.prompt = line;
  return entry;
}

[[noreturn]] void rethrow_at(const std::string& name, std::int64_t line, const Error& error) {
  throw Error(error.kind(), fmt::format("{}:{}: {}", name, line, error.what()));
}

std::vector<PromptEntry> parse_lines(std::string_view text, PromptFormat format,
                                     const std::string& name) {
  std::vector<PromptEntry> entries;
  for (std::int64_t number = 1; !text.empty(); ++number) {
    const std::size_t length = std::min(text.find('\n'), text.size());
    try {
      auto entry = parse_line(text.substr(0, length), number, format);
      if (entry) entries.push_back(std::move(*entry));
    } catch (const Error& error) {
      rethrow_at(name, number, error);
    }
    text.remove_prefix(std::min(length + 1, text.size()));
  }
  return entries;
}

struct Column {
  std::string key;   // as written
  std::string name;  // of the option
};

std::vector<Column> parse_header(const CsvRow& row) {
  PromptKeys keys;
  std::vector<Column> columns;
  for (const std::string& cell : row.cells) {
    const std::string key(trim(cell));
    if (key.empty()) bad(fmt::format("column {} has no name", columns.size() + 1));
    if (row.cells.size() == 1 && key.find(';') != std::string::npos) {
      bad("the columns are separated by semicolons; separate them by commas");
    }
    columns.push_back({key, keys.claim(key)});
  }
  if (!keys.has("prompt")) {
    bad("no column is named prompt; the first line must name the columns, such as prompt,seed");
  }
  return columns;
}

PromptEntry parse_row(const CsvRow& row, const std::vector<Column>& columns) {
  if (row.cells.size() != columns.size()) {
    bad(
        fmt::format("the row has {} cells, the header {}; a prompt with a separator in it must "
                    "stand in quotes",
                    row.cells.size(), columns.size()));
  }
  PromptEntry entry;
  entry.line = row.line;
  for (std::size_t i = 0; i < columns.size(); ++i) {
    const auto& [key, name] = columns[i];
    const std::string_view value = trim(row.cells[i]);
    if (name == "prompt") {
      if (value.empty()) bad("the prompt is blank; write one, or delete the row");
      set_prompt_value(entry, name, key, row.cells[i]);
    } else if (!value.empty()) {
      const bool is_text = prompt_value(name) == PromptValue::kText;
      set_prompt_value(entry, name, key, is_text ? row.cells[i] : std::string(value));
    }
  }
  return entry;
}

bool is_blank(const CsvRow& row) {
  return std::all_of(row.cells.begin(), row.cells.end(),
                     [](const std::string& cell) { return trim(cell).empty(); });
}

std::vector<PromptEntry> parse_csv(std::string_view text, char separator, const std::string& name) {
  if (const auto fault = find_bad_character(text)) {
    const auto end = text.begin() + static_cast<std::ptrdiff_t>(fault->at);
    bad(fmt::format("{}:{}: {}", name, 1 + std::count(text.begin(), end, '\n'), fault->what));
  }
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  CsvReader rows(text, separator, name);
  std::vector<Column> columns;
  std::vector<PromptEntry> entries;
  while (const auto row = rows.next()) {
    if (is_blank(*row)) continue;  // spreadsheets leave such rows at the end
    try {
      if (columns.empty()) {
        columns = parse_header(*row);
      } else {
        entries.push_back(parse_row(*row, columns));
      }
    } catch (const Error& error) {
      rethrow_at(name, row->line, error);
    }
  }
  if (columns.empty()) {
    bad(
        fmt::format("{}:1: the file is empty; the first line must name the columns, such as "
                    "prompt,seed",
                    name));
  }
  return entries;
}

std::string read_whole(const std::filesystem::path& path) {
  const auto fail = [&](ErrorKind kind, const std::string& what) {
    throw Error(kind, fmt::format("{}: {}", path.string(), what));
  };
  struct Descriptor {
    int fd;
    ~Descriptor() {
      if (fd >= 0) close(fd);
    }
  };
  const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) {
    if (errno == ENOENT || errno == ENOTDIR) fail(ErrorKind::kBadInput, "file not found");
    fail(ErrorKind::kIo, fmt::format("cannot open: {}", std::strerror(errno)));
  }
  struct stat status {};
  if (fstat(file.fd, &status) == 0 && S_ISDIR(status.st_mode)) {
    fail(ErrorKind::kBadInput, "is a folder, expected a file of prompts");
  }
  std::string text;
  char buffer[1 << 16];
  while (true) {
    const ssize_t count = read(file.fd, buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(ErrorKind::kIo, fmt::format("cannot read: {}", std::strerror(errno)));
    if (count == 0) return text;
    text.append(buffer, static_cast<std::size_t>(count));
    if (text.size() > kLargestPromptFile) {
      fail(ErrorKind::kBadInput, "larger than 64 MiB; split it, or send its lines to \"batch -\"");
    }
  }
}

}  // namespace

PromptFormat prompt_format_of(const std::filesystem::path& path) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (extension == ".jsonl" || extension == ".ndjson" || extension == ".json") {
    return PromptFormat::kJsonLines;
  }
  if (extension == ".csv") return PromptFormat::kCsv;
  if (extension == ".tsv" || extension == ".tab") return PromptFormat::kTabs;
  return PromptFormat::kText;
}

std::vector<PromptEntry> read_prompt_file(const std::filesystem::path& path) {
  return parse_prompts(read_whole(path), prompt_format_of(path), path.string());
}

std::vector<PromptEntry> parse_prompts(std::string_view text, PromptFormat format,
                                       const std::string& name) {
  switch (format) {
    case PromptFormat::kCsv:
      return parse_csv(text, ',', name);
    case PromptFormat::kTabs:
      return parse_csv(text, '\t', name);
    case PromptFormat::kText:
    case PromptFormat::kJsonLines:
      break;
  }
  return parse_lines(text, format, name);
}

std::optional<PromptEntry> parse_prompt_line(std::string_view line, std::int64_t number) {
  return parse_line(line, number, PromptFormat::kText);
}

}  // namespace steadyflux
