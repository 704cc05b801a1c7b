#include "batch/csv.h"

#include <fmt/format.h>

#include "steadyflux/error.h"

namespace steadyflux {

void CsvReader::fail(std::int64_t line, const std::string& what) const {
  throw Error(ErrorKind::kBadInput, fmt::format("{}:{}: {}", name_, line, what));
}

bool CsvReader::at_line_end() const {
  const std::string_view rest = text_.substr(at_);
  return rest.empty() || rest.front() == '\n' || rest.starts_with("\r\n");
}

std::string CsvReader::quoted_cell() {
  const std::int64_t opened = line_;
  std::string cell;
  ++at_;  // the opening quote
  while (true) {
    const std::size_t quote = text_.find('"', at_);
    if (quote == std::string_view::npos) {
      fail(opened,
           "a quote is opened here and never closed; a quote inside a cell is written \"\"");
    }
    for (const char c : text_.substr(at_, quote - at_)) {
      if (c == '\n') ++line_;
      cell += c;
    }
    at_ = quote + 1;
    if (!text_.substr(at_).starts_with('"')) break;
    cell += '"';
    ++at_;
  }
  if (!at_line_end() && text_[at_] != separator_) {
    fail(line_, "something follows a closing quote; a quote inside a cell is written \"\"");
  }
  return cell;
}

std::string CsvReader::bare_cell() {
  const std::size_t begin = at_;
  while (!at_line_end() && text_[at_] != separator_) {
    if (text_[at_] == '"') {
      fail(line_,
           "a quote in the middle of a cell; put quotes around the cell, and write those inside "
           "as \"\"");
    }
    if (text_[at_] == '\r') {
      fail(line_, "a carriage return without a line feed; save the file with LF or CRLF line ends");
    }
    ++at_;
  }
  return std::string(text_.substr(begin, at_ - begin));
}

std::optional<CsvRow> CsvReader::next() {
  if (at_ >= text_.size()) return std::nullopt;
  CsvRow row;
  row.line = line_;
  while (true) {
    row.cells.push_back(text_.substr(at_).starts_with('"') ? quoted_cell() : bare_cell());
    if (at_line_end()) break;
    ++at_;  // the separator
  }
  if (at_ < text_.size()) {
    at_ += text_[at_] == '\r' ? 2 : 1;
    ++line_;
  }
  return row;
}

}  // namespace steadyflux
