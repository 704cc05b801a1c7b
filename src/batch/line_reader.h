// Lines from a pipe, a terminal or a file as they come. The reader never takes more from the
// descriptor than what is there, can be asked whether a line has arrived, and ends its waiting when
// a signal asks for that, on whichever thread the signal was handled. Lines that are too long are
// skipped without being kept.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace steadyflux {

class LineReader {
 public:
  struct Line {
    std::string text;         // the bytes before the newline, a carriage return and NUL bytes among
                              // them; empty if too_long
    std::int64_t number = 0;  // counted from 1
    std::size_t length = 0;   // in bytes, without the newline; also of a line that is too long
    bool too_long = false;
    bool has_newline = true;  // false for a last line that ended with the input
  };

  // Does not close `fd`, which may be in non-blocking mode or not. `interrupted` is asked before
  // every wait and read, and several times a second while waiting: true makes next() return
  // nothing.
  explicit LineReader(int fd, std::size_t longest, std::function<bool()> interrupted = {});

  // Waits for a line. Nothing at the end of the input, or when interrupted: at_end() tells which.
  // Throws Error{kIo} if the descriptor cannot be read.
  std::optional<Line> next();
  // Would next() return without waiting, with a line or nothing? Takes in what has arrived, 1 MiB
  // at most: asked again, it goes on. Throws as next() does.
  bool ready();
  // The input has ended, and all of its lines were returned.
  bool at_end() const { return ended_ && buffer_.size() == begin_ && skipped_ == 0; }

 private:
  bool has_line();                   // a newline is in the buffer
  std::optional<Line> take_line();   // after has_line(), or at the end
  bool wait_for_input(int timeout);  // milliseconds, -1: without end
  void read_some();
  void drop_excess();
  bool is_interrupted() const { return interrupted_ && interrupted_(); }
  [[noreturn]] void fail(int error) const;

  int fd_;
  std::size_t longest_;
  std::function<bool()> interrupted_;
  std::string buffer_;        // bytes read; lines before begin_ were returned
  std::size_t begin_ = 0;     // of the current line
  std::size_t searched_ = 0;  // no newline from begin_ up to here
  std::size_t skipped_ = 0;   // bytes of the current line that were dropped: it is too long
  std::int64_t number_ = 0;   // of the line returned last
  bool ended_ = false;
};

}  // namespace steadyflux
