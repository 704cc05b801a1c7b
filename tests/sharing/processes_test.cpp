// Several processes share a job, and some are killed, stopped or lose their store.
#include <functional>

#include "expect_error.h"
#include "share_worker.h"
#include "sharing/store.h"
#include "temp_folder.h"

namespace steadyflux {
namespace {

using share_worker::free_port;
using share_worker::Job;
using share_worker::rendezvous_at;
using share_worker::result_of;
using share_worker::Story;

// Google Test sets this up before the tests; in a worker it never comes back.
class WorkerInstead : public ::testing::Environment {
  void SetUp() override {
    if (const char* job = std::getenv(share_worker::kVariable)) _exit(share_worker::run(job));
  }
};
[[maybe_unused]] const auto* const kWorkerInstead =
    ::testing::AddGlobalTestEnvironment(new WorkerInstead);

constexpr int kKilled = 128 + SIGKILL;

class Processes : public ::testing::Test {
 protected:
  Processes() {
    job.port = free_port();
    job.items = 200;
    job.item_milliseconds = 4;
    job.chunk = 4;
    job.lease_seconds = 1;
    job.log = (folder / "log").string();
  }

  ~Processes() override {
    for (const pid_t pid : running) {
      kill(pid, SIGKILL);
      waitpid(pid, nullptr, 0);
    }
  }

  pid_t start() {
    const pid_t pid = share_worker::start(job);
    running.insert(pid);
    return pid;
  }

  // One that stops itself, with items in hand, the last of which it has made but not told.
  pid_t start_one_that_stops() {
    Job stopping = job;
    stopping.stops_after = 10;
    const pid_t pid = share_worker::start(stopping);
    running.insert(pid);
    return pid;
  }

  void wait_until_stopped(pid_t pid) const {
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, WUNTRACED), pid);
    ASSERT_TRUE(WIFSTOPPED(status));
  }

  void kill_stopped(pid_t pid) {
    wait_until_stopped(pid);
    kill(pid, SIGKILL);
    EXPECT_EQ(end_of(pid), kKilled);
  }

  std::optional<int> end_of(pid_t pid) {
    running.erase(pid);
    return result_of(pid);
  }

  Story story() const { return Story(folder.read("log")); }

  // A minute at most: then the checks that follow will fail.
  void wait_for(const std::string& what, std::size_t times) const {
    for (int i = 0; i < 6000 && story().of(what).size() < times; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }

  void go() const { folder.write("log.go", ""); }

  void go_when_joined(std::size_t processes) const {
    wait_for("joined", processes);
    go();
  }

  // Nothing is lost, and the only item that was made twice is the one that `stopped` did not tell.
  void expect_complete_but_for(pid_t stopped) const {
    const Story all = story();
    EXPECT_EQ(all.made().size(), static_cast<std::size_t>(job.items));
    EXPECT_EQ(all.made_again(), (std::multiset<std::string>{all.last("made", stopped)}));
  }

  TempFolder folder;
  Job job;
  std::set<pid_t> running;
};

TEST_F(Processes, ShareEveryItemOnce) {
  const SharedStore store(rendezvous_at(job.port), {});
  ASSERT_TRUE(store.hosts());
  const std::vector<pid_t> pids = {start(), start(), start(), start()};
  go_when_joined(4);
  for (const pid_t pid : pids) EXPECT_EQ(end_of(pid), 0);
  const Story all = story();
  EXPECT_EQ(all.made().size(), static_cast<std::size_t>(job.items));
  EXPECT_TRUE(all.made_again().empty());
  EXPECT_EQ(all.of("finished").size(), 4u);
}

TEST_F(Processes, OneIsKilledAndTheStoreIsElsewhere) {
  const SharedStore store(rendezvous_at(job.port), {});
  const std::vector<pid_t> pids = {start(), start(), start()};
  const pid_t victim = start_one_that_stops();
  go_when_joined(4);
  kill_stopped(victim);
  for (const pid_t pid : pids) EXPECT_EQ(end_of(pid), 0);
  expect_complete_but_for(victim);
}

TEST_F(Processes, OneIsKilledAndAnotherHostsTheStore) {
  const pid_t host = start();
  wait_for("joined", 1);
  EXPECT_EQ(story().last("joined", host), "host");
  const std::vector<pid_t> pids = {host, start(), start()};
  const pid_t victim = start_one_that_stops();
  go_when_joined(4);
  kill_stopped(victim);
  for (const pid_t pid : pids) EXPECT_EQ(end_of(pid), 0);
  expect_complete_but_for(victim);
}

// All come at once: one of them gets to host the store, the others find it.
TEST_F(Processes, WhoeverComesFirstHostsTheStore) {
  const std::vector<pid_t> pids = {start(), start(), start(), start()};
  go_when_joined(4);
  for (const pid_t pid : pids) EXPECT_EQ(end_of(pid), 0);
  const Story all = story();
  EXPECT_EQ(all.made().size(), static_cast<std::size_t>(job.items));
  EXPECT_TRUE(all.made_again().empty());
  std::multiset<std::string> roles;
  for (const auto& event : all.of("joined")) roles.insert(event.value);
  EXPECT_EQ(roles, (std::multiset<std::string>{"client", "client", "client", "host"}));
}

TEST_F(Processes, WithoutTheStoreTheOthersSayWhatToDo) {
  const pid_t host = start_one_that_stops();
  wait_for("joined", 1);
  const std::vector<pid_t> pids = {start(), start()};
  go_when_joined(3);
  kill_stopped(host);
  const std::string message = "the rendezvous store at 127.0.0.1:" + std::to_string(job.port) +
                              " is gone; run the same command again to go on";
  for (const pid_t pid : pids) {
    EXPECT_EQ(end_of(pid), 5);
    EXPECT_EQ(story().last("error", pid), message);
  }
  // And that works.
  const pid_t again = start();
  EXPECT_EQ(end_of(again), 0);
  EXPECT_EQ(story().by("made", again).size(), static_cast<std::size_t>(job.items));
}

TEST_F(Processes, OneThatWasTakenForDeadAndComesBackDoesNoHarm) {
  const SharedStore store(rendezvous_at(job.port), {});
  const pid_t sleeper = start_one_that_stops();
  const pid_t other = start();
  go_when_joined(2);
  wait_until_stopped(sleeper);
  // In the end nothing is left for the other one but what the sleeper holds: it waits for its
  // lease.
  EXPECT_EQ(end_of(other), 0);
  expect_complete_but_for(sleeper);
  kill(sleeper, SIGCONT);
  EXPECT_EQ(end_of(sleeper), 0);
  // It made what was left of its chunk, not knowing better, and took nothing more.
  EXPECT_LE(story().made_again().size(), static_cast<std::size_t>(job.chunk));
}

// Nobody else was there: whoever comes begins anew, and the old one is told when it wakes up.
TEST_F(Processes, OneThatSleptWhileOthersBeganAnewIsToldSo) {
  job.item_milliseconds = 1;
  const SharedStore store(rendezvous_at(job.port), {});
  go();
  const pid_t sleeper = start_one_that_stops();
  wait_until_stopped(sleeper);
  const pid_t other = start();
  EXPECT_EQ(end_of(other), 0);
  EXPECT_EQ(story().by("made", other).size(), static_cast<std::size_t>(job.items));
  kill(sleeper, SIGCONT);
  EXPECT_EQ(end_of(sleeper), 5);
  EXPECT_NE(story().last("error", sleeper).find("others began anew without it"), std::string::npos);
}

// The host's machine hangs: no connection is closed, and no answer comes.
TEST_F(Processes, AStoreThatDoesNotAnswerIsGone) {
  const pid_t host = start_one_that_stops();
  wait_for("joined", 1);
  WorkShare::Options options;
  options.answer_seconds = 0.5;
  WorkShare share(rendezvous_at(job.port), job.items, "job", options);
  EXPECT_EQ(share.take(2), (std::vector<std::int64_t>{0, 1}));
  go();
  wait_until_stopped(host);
  for (int i = 0; i < 2; ++i) {
    expect_error(ErrorKind::kIo, "is gone; run the same command again", [&] { share.done(1); });
  }
}

// The store lives on, and all that worked are dead: what they said to be done is not believed.
TEST_F(Processes, AfterTheDeathOfAllASessionBeginsAnew) {
  const SharedStore store(rendezvous_at(job.port), {});
  go();
  kill_stopped(start_one_that_stops());
  std::vector<std::string> notices;
  WorkShare::Options options;
  options.lease_seconds = 2.5;  // longer than the time after which the wait is mentioned
  options.notice = [&](const std::string& text) { notices.push_back(text); };
  WorkShare share(rendezvous_at(job.port), job.items, "job", options);
  EXPECT_EQ(share.progress().done, 0);
  EXPECT_EQ(share.take(1), (std::vector<std::int64_t>{0}));
  ASSERT_EQ(notices.size(), 1u);
  EXPECT_NE(notices[0].find("still live"), std::string::npos);
}

}  // namespace
}  // namespace steadyflux
