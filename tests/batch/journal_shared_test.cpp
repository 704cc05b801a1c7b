// What a journal promises when processes share it, are killed, or the disk is full.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <random>
#include <set>
#include <thread>

#include "batch/journal.h"
#include "batch/journal_lines.h"
#include "expect_error.h"
#include "failing_syscall.h"
#include "fork_child.h"
#include "image/output_file.h"
#include "temp_folder.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

TEST(JournalShared, ManyAppendAtOnce) {
  TempFolder folder;
  constexpr int kProcesses = 6;
  constexpr int kThreads = 3;
  constexpr int kLines = 15;
  std::vector<pid_t> children;
  for (int process = 0; process < kProcesses; ++process) {
    children.push_back(fork_child([&, process] {
      Journal journal = Journal::open(folder.path());
      std::vector<std::thread> threads;
      for (int thread = 0; thread < kThreads; ++thread) {
        threads.emplace_back([&, thread] {
          for (int i = 0; i < kLines; ++i) {
            json line = done_line(fmt::format("{}-{}-{}", process, thread, i));
            line["prompt"] = std::string(static_cast<std::size_t>(i) * 1000, 'p');
            journal.append(line);
            EXPECT_NE(journal.find(line["output"]), nullptr);
          }
        });
      }
      for (std::thread& thread : threads) thread.join();
    }));
  }
  for (const pid_t child : children) expect_success(child);
  std::set<std::string> outputs;
  for (const json& line : parsed_lines(folder)) outputs.insert(line["output"]);
  EXPECT_EQ(outputs.size(), std::size_t{kProcesses * kThreads * kLines});
  const Journal journal = Journal::open(folder.path());
  EXPECT_EQ(journal.done().size(), outputs.size());
  EXPECT_TRUE(journal.warnings().empty());
}

TEST(JournalClaims, OneHolder) {
  TempFolder folder;
  Journal mine = Journal::open(folder.path());
  EXPECT_TRUE(mine.try_claim("a.png"));
  EXPECT_FALSE(mine.try_claim("a.png"));
  EXPECT_TRUE(mine.try_claim("b.png"));
  {
    Journal other = Journal::open(folder.path());  // in the same process, as threads may do
    EXPECT_FALSE(other.try_claim("a.png"));
    other.release("a.png");  // not its own: nothing happens
    EXPECT_FALSE(other.try_claim("a.png"));
    EXPECT_TRUE(other.try_claim("c.png"));
    EXPECT_FALSE(mine.try_claim("c.png"));
    mine.release("a.png");
    EXPECT_TRUE(other.try_claim("a.png"));
  }
  EXPECT_TRUE(mine.try_claim("a.png"));
  EXPECT_TRUE(mine.try_claim("c.png"));
  EXPECT_EQ(folder.read(kJournalName), "") << "claims leave nothing in the file";
}

TEST(JournalClaims, EndWithTheProcess) {
  TempFolder folder;
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const pid_t child = fork_child([&] {
    Journal journal = Journal::open(folder.path());
    EXPECT_TRUE(journal.try_claim("a.png"));
    EXPECT_EQ(::write(ends[1], "x", 1), 1);
    while (true) pause();
  });
  ::close(ends[1]);
  char claimed = 0;
  ASSERT_EQ(::read(ends[0], &claimed, 1), 1);
  ::close(ends[0]);
  Journal journal = Journal::open(folder.path());
  EXPECT_FALSE(journal.try_claim("a.png"));
  EXPECT_TRUE(journal.try_claim("b.png"));
  journal.append(done_line("b.png"));  // claims do not stand in the way of lines
  kill_child(child);
  EXPECT_TRUE(journal.try_claim("a.png"));
}

TEST(JournalClaims, WhoClaimsKnowsWhatIsDone) {
  TempFolder folder;
  Journal mine = Journal::open(folder.path());
  Journal other = Journal::open(folder.path());
  ASSERT_TRUE(other.try_claim("a.png"));
  other.append(done_line("a.png"));
  other.release("a.png");
  ASSERT_TRUE(mine.try_claim("a.png"));
  EXPECT_NE(mine.find("a.png"), nullptr);
}

// Six processes, sixty pictures, no order agreed upon: each is made once.
TEST(JournalClaims, EachIsMadeOnce) {
  TempFolder folder;
  constexpr int kOutputs = 60;
  std::vector<pid_t> children;
  for (int process = 0; process < 6; ++process) {
    children.push_back(fork_child([&, process] {
      Journal journal = Journal::open(folder.path());
      for (int i = 0; i < kOutputs; ++i) {
        const std::string output = std::to_string((i + process * 3) % kOutputs);
        if (!journal.try_claim(output)) continue;
        if (journal.find(output) == nullptr) journal.append(done_line(output));
        journal.release(output);
      }
    }));
  }
  for (const pid_t child : children) expect_success(child);
  const std::vector<json> lines = parsed_lines(folder);
  std::set<std::string> outputs;
  for (const json& line : lines) outputs.insert(line["output"]);
  EXPECT_EQ(outputs.size(), std::size_t{kOutputs});
  EXPECT_EQ(lines.size(), std::size_t{kOutputs});
}

TEST(JournalClaims, WithoutLocksOneProcessWorks) {
  TempFolder folder;
  expect_success(fork_child([&] {
    // Only the commands F_OFD_*: 36, 37, 38; F_GETFD and such have no bit of 32.
    fail_syscall(SYS_fcntl, 1, 32, ENOLCK);
    Journal journal = Journal::open(folder.path());
    EXPECT_TRUE(journal.try_claim("a.png"));
    EXPECT_FALSE(journal.try_claim("a.png"));
    journal.append(done_line("a.png"));
    journal.release("a.png");
    EXPECT_TRUE(journal.try_claim("a.png"));
    const std::vector<std::string> warnings = journal.warnings();
    ASSERT_EQ(warnings.size(), 1u);
    EXPECT_NE(warnings[0].find("no locks"), std::string::npos) << warnings[0];
  }));
  EXPECT_EQ(parsed_lines(folder).size(), 1u);
}

// SIGKILL at random moments of several workers that make pictures as a batch does; then the rest is
// made. Every picture is there, with exactly one line; nothing else is left.
TEST(JournalKills, NothingIsLostOrMadeTwice) {
  constexpr int kRounds = 12;
  constexpr int kOutputs = 40;
  std::mt19937 random(2);
  int cut_short = 0;
  for (int round = 0; round < kRounds; ++round) {
    TempFolder folder;
    const auto work = [&] {
      Journal journal = Journal::open(folder.path());
      EXPECT_TRUE(journal.warnings().empty());
      remove_stale_temporaries(folder.path());
      for (int i = 0; i < kOutputs; ++i) {
        const std::string output = fmt::format("{:04}.png", i);
        if (!journal.try_claim(output)) continue;
        if (journal.find(output) == nullptr) {
          const std::vector<std::uint8_t> bytes(20000, static_cast<std::uint8_t>(i));
          write_file_atomically(folder / output, bytes);
          journal.append(done_line(output, "key", 20000));
        }
        journal.release(output);
      }
    };
    for (int kills = 0; kills < 3; ++kills) {
      const pid_t left_alone = fork_child(work);
      const pid_t killed = fork_child([&] {
        // As file systems without O_TMPFILE: temporary names are seen more often.
        if (kills % 2 == 1) fail_syscall(SYS_openat, 2, O_TMPFILE & ~O_DIRECTORY, EOPNOTSUPP);
        work();
        while (true) pause();
      });
      usleep(static_cast<useconds_t>(random() % (kills == 0 ? 4000 : 20000)));
      kill_child(killed);
      if (kills == 2) {
        expect_success(left_alone);
      } else {
        kill(left_alone, SIGKILL);  // it may have ended already
        ASSERT_EQ(waitpid(left_alone, nullptr, 0), left_alone);
      }
      cut_short += whole_lines(folder) < kOutputs ? 1 : 0;
    }
    work();
    remove_stale_temporaries(folder.path());
    const std::vector<json> lines = parsed_lines(folder);
    std::set<std::string> outputs;
    for (const json& line : lines) outputs.insert(line["output"]);
    EXPECT_EQ(outputs.size(), std::size_t{kOutputs});
    EXPECT_EQ(lines.size(), std::size_t{kOutputs});
    EXPECT_EQ(folder.entries(), kOutputs + 1);
    for (int i = 0; i < kOutputs; ++i) {
      EXPECT_EQ(folder.read(fmt::format("{:04}.png", i)), std::string(20000, static_cast<char>(i)));
    }
  }
  EXPECT_GT(cut_short, 0) << "the kills came too late to show anything";
}

// Nothing of a line that does not fit stays, and the journal goes on when there is room again.
TEST(JournalDiskFull, TakesTheLineBack) {
  TempFolder folder;
  expect_success(fork_child([&] {
    signal(SIGXFSZ, SIG_IGN);
    rlimit limit{};
    getrlimit(RLIMIT_FSIZE, &limit);
    const rlimit small{.rlim_cur = 4096, .rlim_max = limit.rlim_max};
    Journal journal = Journal::open(folder.path());
    journal.append(done_line("a.png"));
    const std::string before = folder.read(kJournalName);
    json line = done_line("big.png");
    line["prompt"] = std::string(10000, 'p');
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    expect_error(ErrorKind::kIo, std::strerror(EFBIG), [&] { journal.append(line); });
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    EXPECT_EQ(folder.read(kJournalName), before);
    EXPECT_EQ(journal.find("big.png"), nullptr);
    journal.append(line);
    EXPECT_NE(journal.find("big.png"), nullptr);
  }));
  EXPECT_EQ(parsed_lines(folder).size(), 2u);
}

// One whose lines never fit takes back what it wrote of them, and nothing of the others.
TEST(JournalDiskFull, LinesOfOthersStay) {
  TempFolder folder;
  constexpr int kWriters = 3;
  constexpr int kLines = 60;
  const pid_t failing = fork_child([&] {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit small{.rlim_cur = 4096, .rlim_max = RLIM_INFINITY};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    Journal journal = Journal::open(folder.path());
    json line = done_line("big.png");
    line["prompt"] = std::string(10000, 'p');
    while (true) expect_error(ErrorKind::kIo, "cannot write", [&] { journal.append(line); });
  });
  std::vector<pid_t> writers;
  for (int writer = 0; writer < kWriters; ++writer) {
    writers.push_back(fork_child([&, writer] {
      Journal journal = Journal::open(folder.path());
      for (int i = 0; i < kLines; ++i) journal.append(done_line(fmt::format("{}-{}", writer, i)));
    }));
  }
  for (const pid_t writer : writers) expect_success(writer);
  kill_child(failing);
  const Journal journal = Journal::open(folder.path());
  EXPECT_EQ(journal.done().size(), std::size_t{kWriters * kLines});
  EXPECT_TRUE(journal.warnings().empty());
}

TEST(JournalDiskFull, OnASmallDisk) {
  TempFolder folder;
  fs::create_directory(folder / "small");
  const fs::path small = folder / "small";
  if (mount("tmpfs", small.c_str(), "tmpfs", 0, "size=64k") != 0) {
    GTEST_SKIP() << "no right to mount a small tmpfs: " << std::strerror(errno);
  }
  {
    Journal journal = Journal::open(small);
    int written = 0;
    const auto fill = [&] {
      while (true) {
        const std::string output = fmt::format("{:04}.png", written);
        write_file_atomically(small / output, std::vector<std::uint8_t>(3000, 'x'));
        journal.append(done_line(output, "key", 3000));
        ++written;
      }
    };
    expect_error(ErrorKind::kIo, std::strerror(ENOSPC), fill);
    EXPECT_GT(written, 0);
    const Journal again = Journal::open(small);
    EXPECT_TRUE(again.warnings().empty());
    EXPECT_EQ(again.done().size(), static_cast<std::size_t>(written));
    for (const JournalEntry* entry : again.done()) {
      EXPECT_EQ(fs::file_size(small / entry->output), 3000u);
    }
  }
  EXPECT_EQ(umount(small.c_str()), 0);
}

}  // namespace
}  // namespace steadyflux
