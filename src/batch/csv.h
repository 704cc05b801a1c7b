// Rows of comma-separated values as RFC 4180 has them: cells may stand in quotes, and then hold
// separators, line ends and doubled quotes. Strict, because a quote in the wrong place usually
// means that rows were glued together or torn apart: every fault is an error with its line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace steadyflux {

struct CsvRow {
  std::int64_t line = 0;           // where the row begins, counted from 1
  std::vector<std::string> cells;  // without quotes, otherwise as written; one at least
};

class CsvReader {
 public:
  // `text` must outlive the reader; `name` is how errors call it.
  CsvReader(std::string_view text, char separator, std::string name)
      : text_(text), separator_(separator), name_(std::move(name)) {}

  // Nothing at the end. A line without any character is a row of one empty cell. Throws
  // Error{kBadInput} "NAME:LINE: what".
  std::optional<CsvRow> next();

 private:
  std::string quoted_cell();
  std::string bare_cell();
  bool at_line_end() const;  // LF, CRLF or the end of the text
  [[noreturn]] void fail(std::int64_t line, const std::string& what) const;

  std::string_view text_;
  char separator_;
  std::string name_;
  std::size_t at_ = 0;
  std::int64_t line_ = 1;
};

}  // namespace steadyflux
