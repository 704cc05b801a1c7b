#include "batch/line_reader.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "steadyflux/error.h"

namespace steadyflux {
namespace {

constexpr std::size_t kReadSize = 1 << 16;
constexpr int kReadsWhenAsked = 16;  // a writer that ends no line cannot hold ready() for ever
// A signal handled by another thread does not end poll(), nor does one that comes just before it.
constexpr int kAskAfter = 100;  // milliseconds

}  // namespace

LineReader::LineReader(int fd, std::size_t longest, std::function<bool()> interrupted)
    : fd_(fd), longest_(longest), interrupted_(std::move(interrupted)) {}

void LineReader::fail(int error) const {
  const std::string name =
      fd_ == STDIN_FILENO ? "standard input" : fmt::format("file descriptor {}", fd_);
  throw Error(ErrorKind::kIo, fmt::format("{}: cannot read: {}", name, std::strerror(error)));
}

std::optional<LineReader::Line> LineReader::next() {
  while (!has_line() && !ended_) {
    if (is_interrupted()) return std::nullopt;
    if (wait_for_input(interrupted_ ? kAskAfter : -1)) read_some();
  }
  return take_line();
}

bool LineReader::ready() {
  for (int reads = 0; !has_line() && !ended_; ++reads) {
    if (is_interrupted()) return true;
    if (reads == kReadsWhenAsked || !wait_for_input(0)) return false;
    read_some();
  }
  return true;
}

bool LineReader::has_line() {
  searched_ = std::min(buffer_.find('\n', std::max(begin_, searched_)), buffer_.size());
  return searched_ < buffer_.size();
}

std::optional<LineReader::Line> LineReader::take_line() {
  if (at_end()) return std::nullopt;
  Line line;
  line.has_newline = searched_ < buffer_.size();
  line.number = ++number_;
  line.length = skipped_ + (searched_ - begin_);
  line.too_long = line.length > longest_;
  if (!line.too_long) line.text = buffer_.substr(begin_, searched_ - begin_);
  begin_ = searched_ + (line.has_newline ? 1 : 0);
  searched_ = begin_;
  skipped_ = 0;
  return line;
}

bool LineReader::wait_for_input(int timeout) {
  pollfd waiting{fd_, POLLIN, 0};
  const int count = poll(&waiting, 1, timeout);
  if (count < 0 && errno != EINTR && errno != EAGAIN) fail(errno);
  return count > 0;  // read() tells what is wrong with the descriptor, if anything
}

void LineReader::read_some() {
  buffer_.erase(0, begin_);
  searched_ -= begin_;
  begin_ = 0;
  const std::size_t old_size = buffer_.size();
  buffer_.resize(old_size + kReadSize);
  const ssize_t count = read(fd_, buffer_.data() + old_size, kReadSize);
  const int error = errno;
  buffer_.resize(old_size + static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
  if (count == 0) ended_ = true;
  if (count < 0 && error != EINTR && error != EAGAIN) fail(error);
  drop_excess();
}

// Of a line that is too long already, nothing is kept but its length.
void LineReader::drop_excess() {
  if (has_line() || skipped_ + buffer_.size() <= longest_) return;
  skipped_ += buffer_.size();
  buffer_.clear();
  searched_ = 0;
}

}  // namespace steadyflux
