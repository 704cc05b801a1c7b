// Events as their readers get them: whole lines, and never in the way of the work.
#include "cli/event_log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cli/read_events.h"
#include "cli/signals.h"
#include "expect_error.h"
#include "temp_folder.h"

namespace steadyflux::cli {
namespace {

struct Pipe {
  int read_end = -1;
  int write_end = -1;
  explicit Pipe(int flags = 0) {
    int ends[2];
    if (::pipe2(ends, flags) != 0) throw std::runtime_error("no pipe");
    read_end = ends[0];
    write_end = ends[1];
  }
  ~Pipe() {
    close_read_end();
    ::close(write_end);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  void close_read_end() {
    if (read_end >= 0) ::close(read_end);
    read_end = -1;
  }
};

TEST(EventLog, AppendsLinesToAFile) {
  const TempFolder folder;
  folder.write("e.jsonl", "{\"event\":\"old\"}\n");
  for (const char* name : {"first", "second"}) {  // two runs
    const auto log = EventLog::open((folder / "e.jsonl").string());
    log->add_to_all("rank", 3);
    log->write({{"event", name}, {"text", "two\nlines, \xff and \u00e9"}});
  }
  const auto events = read_events(folder / "e.jsonl");
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(events[0]["event"], "old");
  EXPECT_EQ(events[1]["event"], "first");
  EXPECT_EQ(events[2]["event"], "second");
  EXPECT_EQ(keys_of(events[2]),
            (std::vector<std::string>{"event", "time", "elapsed", "rank", "text"}));
  EXPECT_EQ(events[2]["text"], "two\nlines, \xef\xbf\xbd and \u00e9");
  EXPECT_GT(events[2]["time"], 1.7e9);  // seconds since 1970, not milliseconds
  EXPECT_LT(events[2]["time"], 1e10);
  EXPECT_GE(events[2]["elapsed"], 0);
  // Three decimals at most.
  const std::string time = events[2]["time"].dump();
  EXPECT_LE(time.size() - std::min(time.find('.'), time.size() - 1) - 1, 3U) << time;
}

TEST(EventLog, ALineThatWasCutOffStaysAlone) {
  const TempFolder folder;
  folder.write("e.jsonl", "{\"event\":\"old\"}\n{\"event\":\"cut o");
  EventLog::open((folder / "e.jsonl").string())->write({{"event", "new"}});
  const std::string text = folder.read("e.jsonl");
  EXPECT_EQ(text.rfind("{\"event\":\"old\"}\n{\"event\":\"cut o\n{\"event\":\"new\",", 0), 0U)
      << text;
}

TEST(EventLog, WritesToOpenDescriptors) {
  const TempFolder folder;
  const int fd = ::open((folder / "e.jsonl").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  ASSERT_GE(fd, 0);
  EventLog::open("fd:" + std::to_string(fd))->write({{"event", "a"}});
  EventLog::open(std::to_string(fd))->write({{"event", "b"}});
  EXPECT_EQ(::write(fd, "{}\n", 3), 3) << "it is the caller's, and stays open";
  ::close(fd);
  const auto events = read_events(folder / "e.jsonl");
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(events[0]["event"], "a");
  EXPECT_EQ(events[1]["event"], "b");

  testing::internal::CaptureStdout();
  EventLog::open("-")->write({{"event", "c"}});
  EXPECT_EQ(parse_events(testing::internal::GetCapturedStdout()).at(0)["event"], "c");
}

TEST(EventLog, SaysWhatCannotBeWrittenTo) {
  const TempFolder folder;
  const auto open = [](const std::string& spec) { return [spec] { EventLog::open(spec); }; };
  expect_error(ErrorKind::kUsage, "descriptor 987 is not open", open("fd:987"));
  expect_error(ErrorKind::kUsage, "descriptor 987 is not open", open("987"));
  for (const char* spec : {"fd:", "fd:x", "fd:-1", "fd:3x", "99999999999"}) {
    expect_error(ErrorKind::kUsage, "no number of a file descriptor", open(spec));
  }
  expect_error(ErrorKind::kUsage, "give a file", open(""));
  const Pipe pipe;
  expect_error(ErrorKind::kUsage, "for reading only", open("fd:" + std::to_string(pipe.read_end)));
  expect_error(ErrorKind::kIo, "No such file", open((folder / "gone/e.jsonl").string()));
  expect_error(ErrorKind::kIo, "directory", open(folder.path().string()));
}

// What the log does when `fd` fails: it warns once, and goes on without a word.
void expect_one_warning(int fd, const std::string& reason) {
  std::vector<std::string> warnings;
  const auto log = EventLog::open("fd:" + std::to_string(fd),
                                  [&](const std::string& text) { warnings.push_back(text); });
  EXPECT_TRUE(log->is_on());
  for (int i = 0; i < 3; ++i) log->write({{"event", "x"}});
  EXPECT_FALSE(log->is_on());
  ASSERT_EQ(warnings.size(), 1U);
  EXPECT_NE(warnings[0].find(reason), std::string::npos) << warnings[0];
  EXPECT_NE(warnings[0].find("no more events"), std::string::npos) << warnings[0];
}

TEST(EventLog, AReaderThatGoesAwayEndsTheLogAlone) {
  install_signal_handlers();  // SIGPIPE would kill this test otherwise
  Pipe pipe;
  pipe.close_read_end();
  expect_one_warning(pipe.write_end, "Broken pipe");
}

TEST(EventLog, AFullDiskEndsTheLogAlone) {
  const int fd = ::open("/dev/full", O_WRONLY | O_CLOEXEC);
  if (fd < 0) GTEST_SKIP() << "no /dev/full here";
  expect_one_warning(fd, "No space left");
  ::close(fd);
}

TEST(EventLog, WaitsForASlowReader) {
  const Pipe pipe(O_NONBLOCK);  // more than it holds would fail without waiting
  const std::string text(100000, 'x');
  std::string received;
  std::thread reader([&] {
    ::fcntl(pipe.read_end, F_SETFL, 0);
    char buffer[1000];
    while (std::count(received.begin(), received.end(), '\n') < 3) {
      const ssize_t size = ::read(pipe.read_end, buffer, sizeof buffer);
      if (size <= 0) return;
      received.append(buffer, static_cast<std::size_t>(size));
    }
  });
  const auto log = EventLog::open("fd:" + std::to_string(pipe.write_end));
  for (int i = 0; i < 3; ++i) log->write({{"event", "long"}, {"text", text}});
  reader.join();
  const auto events = parse_events(received);
  ASSERT_EQ(events.size(), 3U);
  for (const Json& event : events) EXPECT_EQ(event["text"], text);
}

TEST(EventLog, SeveralProcessesShareAFile) {
  constexpr int kProcesses = 4;
  constexpr int kLines = 200;
  const TempFolder folder;
  std::vector<pid_t> children;
  for (int process = 0; process < kProcesses; ++process) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      // Opened again and again, while the others write: a line of theirs that is on its way is
      // not taken for one that was cut off. Lines of several pages, which are not written at once.
      for (int i = 0; i < kLines; ++i) {
        EventLog::open((folder / "e.jsonl").string())
            ->write({{"event", "x"}, {"process", process}, {"text", std::string(20000, 'y')}});
      }
      _exit(0);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) waitpid(child, nullptr, 0);
  std::map<int, int> counts;
  for (const Json& event : read_events(folder / "e.jsonl")) ++counts[event["process"].get<int>()];
  EXPECT_EQ(counts.size(), std::size_t{kProcesses});
  for (const auto& [process, count] : counts) EXPECT_EQ(count, kLines) << process;
}

}  // namespace
}  // namespace steadyflux::cli
