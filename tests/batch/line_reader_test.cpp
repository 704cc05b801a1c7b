#include "batch/line_reader.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "expect_error.h"
#include "temp_folder.h"

namespace steadyflux {
namespace {

using namespace std::string_view_literals;

class Pipe {
 public:
  Pipe() {
    if (pipe2(ends_, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
  }
  ~Pipe() {
    close(ends_[0]);
    close_writer();
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;

  int reader() const { return ends_[0]; }
  void write(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t count = ::write(ends_[1], bytes.data(), bytes.size());
      if (count <= 0) throw std::runtime_error("write");
      bytes.remove_prefix(static_cast<std::size_t>(count));
    }
  }
  void close_writer() {
    if (ends_[1] >= 0) close(ends_[1]);
    ends_[1] = -1;
  }

 private:
  int ends_[2] = {-1, -1};
};

std::vector<LineReader::Line> read_all(LineReader& reader) {
  std::vector<LineReader::Line> lines;
  while (auto line = reader.next()) lines.push_back(std::move(*line));
  return lines;
}

std::vector<LineReader::Line> lines_of(std::string_view bytes, std::size_t longest = 100) {
  Pipe pipe;
  pipe.write(bytes);  // less than a pipe holds
  pipe.close_writer();
  LineReader reader(pipe.reader(), longest);
  auto lines = read_all(reader);
  EXPECT_TRUE(reader.at_end());
  EXPECT_FALSE(reader.next());  // the end stays the end
  return lines;
}

TEST(LineReader, ReturnsTheBytesBetweenNewlines) {
  const auto lines = lines_of("one\n\ntwo\r\nthr\0ee\xff\n"sv);
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0].text, "one");
  EXPECT_EQ(lines[1].text, "");
  EXPECT_EQ(lines[2].text, "two\r");
  EXPECT_EQ(lines[3].text, "thr\0ee\xff"sv);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i].number, static_cast<std::int64_t>(i) + 1);
    EXPECT_EQ(lines[i].length, lines[i].text.size());
    EXPECT_TRUE(lines[i].has_newline);
    EXPECT_FALSE(lines[i].too_long);
  }
}

TEST(LineReader, TheLastLineNeedsNoNewline) {
  const auto lines = lines_of("one\ntwo");
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_TRUE(lines[0].has_newline);
  EXPECT_EQ(lines[1].text, "two");
  EXPECT_FALSE(lines[1].has_newline);
  EXPECT_TRUE(lines_of("").empty());
  EXPECT_EQ(lines_of("\n").size(), 1u);
}

TEST(LineReader, TheLongestLineIsTakenAndOneByteMoreIsNot) {
  const std::string longest(10, 'a');
  for (const char* end : {"\n", ""}) {
    const auto lines = lines_of(longest + "\n" + longest + "b\n" + longest + end, 10);
    ASSERT_EQ(lines.size(), 3u);
    EXPECT_EQ(lines[0].text, longest);
    EXPECT_TRUE(lines[1].too_long);
    EXPECT_EQ(lines[1].text, "");
    EXPECT_EQ(lines[1].length, 11u);
    EXPECT_EQ(lines[1].number, 2);
    EXPECT_EQ(lines[2].text, longest);
    EXPECT_EQ(lines[2].number, 3);
  }
}

TEST(LineReader, ALineThatIsTooLongAtTheEndIsReportedOnce) {
  const auto lines = lines_of("one\n" + std::string(300, 'x'), 100);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_TRUE(lines[1].too_long);
  EXPECT_EQ(lines[1].length, 300u);
  EXPECT_FALSE(lines[1].has_newline);
}

// Longer than a pipe and a read hold, so that it comes in pieces of any size.
TEST(LineReader, LongLinesComeWholeOrAreSkippedWhole) {
  constexpr std::size_t kMega = 1 << 20;
  for (const std::size_t longest : {kMega, kMega - 1}) {
    Pipe pipe;
    std::thread writer([&] {
      pipe.write("before\n" + std::string(kMega, 'x') + "\nafter\n");
      pipe.close_writer();
    });
    LineReader reader(pipe.reader(), longest);
    const auto lines = read_all(reader);
    writer.join();
    ASSERT_EQ(lines.size(), 3u);
    EXPECT_EQ(lines[0].text, "before");
    EXPECT_EQ(lines[1].length, kMega);
    EXPECT_EQ(lines[1].too_long, longest < kMega);
    EXPECT_EQ(lines[1].text, longest < kMega ? "" : std::string(kMega, 'x'));
    EXPECT_EQ(lines[2].text, "after");
  }
}

TEST(LineReader, BytesThatComeOneByOneMakeTheSameLines) {
  const auto bytes = "a\r\nbc\n\n\xc3\xbc\0d\n12345678901\ne"sv;
  Pipe pipe;
  LineReader reader(pipe.reader(), 10);
  std::vector<LineReader::Line> lines;
  for (const char byte : bytes) {
    pipe.write({&byte, 1});
    while (reader.ready()) lines.push_back(*reader.next());
  }
  pipe.close_writer();
  for (auto& line : read_all(reader)) lines.push_back(std::move(line));
  const auto expected = lines_of(bytes, 10);
  ASSERT_EQ(lines.size(), expected.size());
  for (std::size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i].text, expected[i].text);
    EXPECT_EQ(lines[i].number, expected[i].number);
    EXPECT_EQ(lines[i].length, expected[i].length);
    EXPECT_EQ(lines[i].too_long, expected[i].too_long);
    EXPECT_EQ(lines[i].has_newline, expected[i].has_newline);
  }
}

TEST(LineReader, IsReadyWhenALineOrTheEndIsThere) {
  Pipe pipe;
  LineReader reader(pipe.reader(), 100);
  EXPECT_FALSE(reader.ready());
  pipe.write("on");
  EXPECT_FALSE(reader.ready());
  pipe.write("e\ntwo\nthr");
  EXPECT_TRUE(reader.ready());
  EXPECT_EQ(reader.next()->text, "one");
  EXPECT_TRUE(reader.ready());
  EXPECT_EQ(reader.next()->text, "two");
  EXPECT_FALSE(reader.ready());
  EXPECT_FALSE(reader.at_end());
  pipe.close_writer();
  EXPECT_TRUE(reader.ready());
  EXPECT_FALSE(reader.at_end());
  EXPECT_EQ(reader.next()->text, "thr");
  EXPECT_TRUE(reader.at_end());
  EXPECT_TRUE(reader.ready());
  EXPECT_FALSE(reader.next());
}

TEST(LineReader, AWriterThatEndsNoLineDoesNotHoldReady) {
  const int zeros = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  ASSERT_GE(zeros, 0);
  LineReader reader(zeros, 1000);
  EXPECT_FALSE(reader.ready());
  EXPECT_FALSE(reader.ready());
  close(zeros);
}

TEST(LineReader, WaitsOnDescriptorsThatDoNotBlock) {
  Pipe pipe;
  ASSERT_EQ(fcntl(pipe.reader(), F_SETFL, O_NONBLOCK), 0);
  LineReader reader(pipe.reader(), 100);
  EXPECT_FALSE(reader.ready());
  std::atomic<bool> has_line = false;
  std::thread waiting([&] {
    const auto line = reader.next();
    has_line = line && line->text == "one";
  });
  pipe.write("o");
  pipe.write("ne\n");
  waiting.join();
  EXPECT_TRUE(has_line);
}

TEST(LineReader, ReadsRegularFiles) {
  const TempFolder folder;
  folder.write("lines", "one\ntwo");
  const int file = open((folder / "lines").c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_GE(file, 0);
  LineReader reader(file, 100);
  EXPECT_TRUE(reader.ready());
  EXPECT_EQ(read_all(reader).size(), 2u);
  close(file);
}

TEST(LineReader, EndsItsWaitWhenInterrupted) {
  Pipe pipe;
  std::atomic<bool> interrupted = false;
  std::atomic<int> asked = 0;
  LineReader reader(pipe.reader(), 100, [&] {
    ++asked;
    return interrupted.load();
  });
  pipe.write("one\ntw");
  EXPECT_EQ(reader.next()->text, "one");
  const int before = asked;
  std::thread waiting([&] { EXPECT_FALSE(reader.next()); });
  while (asked < before + 2) std::this_thread::yield();  // in the second round it had to wait
  interrupted = true;
  waiting.join();
  EXPECT_FALSE(reader.at_end());
  EXPECT_TRUE(reader.ready());
  EXPECT_FALSE(reader.next());
  interrupted = false;  // nothing is lost
  EXPECT_FALSE(reader.ready());
  pipe.write("o\n");
  EXPECT_EQ(reader.next()->text, "two");
}

TEST(LineReader, InterruptionEndsALineWithoutEnd) {
  const int zeros = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  ASSERT_GE(zeros, 0);
  int asked = 0;
  LineReader reader(zeros, 1000, [&] { return ++asked > 50; });
  EXPECT_FALSE(reader.next());
  EXPECT_FALSE(reader.at_end());
  close(zeros);
}

// Without a callback a signal that is handled must not look like the end of the input.
TEST(LineReader, ASignalIsNotTheEnd) {
  struct sigaction action {};
  struct sigaction previous {};
  action.sa_handler = [](int) {};
  ASSERT_EQ(sigaction(SIGUSR1, &action, &previous), 0);
  Pipe pipe;
  LineReader reader(pipe.reader(), 100);
  std::atomic<bool> is_done = false;
  std::thread waiting([&] {
    EXPECT_EQ(reader.next()->text, "one");
    is_done = true;
  });
  for (int i = 0; i < 20; ++i) {
    pthread_kill(waiting.native_handle(), SIGUSR1);
    poll(nullptr, 0, 1);  // milliseconds, for the thread to come back to its wait
  }
  EXPECT_FALSE(is_done);
  pipe.write("one\n");
  waiting.join();
  sigaction(SIGUSR1, &previous, nullptr);
}

TEST(LineReader, SaysWhatCannotBeRead) {
  const int folder = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  ASSERT_GE(folder, 0);
  LineReader reader(folder, 100);
  expect_error(ErrorKind::kIo, "cannot read: Is a directory", [&] { reader.next(); });
  close(folder);
  LineReader closed(folder, 100);
  expect_error(ErrorKind::kIo, "cannot read: Bad file descriptor", [&] { closed.next(); });
  expect_error(ErrorKind::kIo, "cannot read: Bad file descriptor", [&] { closed.ready(); });
}

}  // namespace
}  // namespace steadyflux
