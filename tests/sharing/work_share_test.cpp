// Several shares in one process: what they promise when nobody dies. processes_test.cpp kills.
#include "sharing/work_share.h"

#include <atomic>
#include <numeric>

#include "expect_error.h"
#include "share_worker.h"
#include "sharing/lease_table.h"
#include "sharing/sockets.h"
#include "sharing/store.h"

namespace steadyflux {
namespace {

using share_worker::free_port;
using share_worker::never;
using share_worker::rendezvous_at;
using Items = std::vector<std::int64_t>;

bool at_once() { return true; }

Items range(std::int64_t begin, std::int64_t end) {
  Items items(static_cast<std::size_t>(end - begin));
  std::iota(items.begin(), items.end(), begin);
  return items;
}

class WorkShareTest : public ::testing::Test {
 protected:
  Rendezvous at = rendezvous_at(free_port());
};

TEST_F(WorkShareTest, ItemsAreTakenInOrderAndByOne) {
  WorkShare first(at, 5, "job", {});
  WorkShare second(at, 5, "job", {});
  EXPECT_TRUE(first.hosts_store());
  EXPECT_FALSE(second.hosts_store());
  EXPECT_EQ(first.take(2), (Items{0, 1}));
  EXPECT_EQ(second.take(2), (Items{2, 3}));
  EXPECT_EQ(first.take(2), (Items{4}));
  EXPECT_EQ(second.take(2), Items{});
  EXPECT_EQ(second.take(0), Items{});
}

TEST_F(WorkShareTest, ProgressIsThatOfAll) {
  WorkShare first(at, 6, "job", {});
  WorkShare second(at, 6, "job", {});
  EXPECT_EQ(first.take(3), range(0, 3));
  EXPECT_EQ(second.take(2), range(3, 5));
  first.done(0);
  first.failed(1);
  second.done(Items{3, 4});
  for (WorkShare* share : {&first, &second}) {
    const auto progress = share->progress();
    EXPECT_EQ(progress.items, 6);
    EXPECT_EQ(progress.done, 3);
    EXPECT_EQ(progress.failed, 1);
    EXPECT_EQ(progress.leased, 1);
    EXPECT_EQ(progress.processes, 2);
    EXPECT_EQ(progress.unfinished(), 2);
    EXPECT_FALSE(share->all_done());
  }
  first.done(2);
  second.done(5);  // done before, says its journal: nobody need have leased it
  EXPECT_TRUE(first.all_done());
  EXPECT_TRUE(second.all_done());
}

TEST_F(WorkShareTest, AFailureDoesNotUndoWhatAnotherHasDone) {
  WorkShare share(at, 1, "job", {});
  share.failed(0);
  EXPECT_EQ(share.progress().failed, 1);
  share.done(0);
  share.failed(0);
  EXPECT_EQ(share.progress().done, 1);
  EXPECT_EQ(share.progress().failed, 0);
}

TEST_F(WorkShareTest, WhatIsGivenBackIsTakenByAnother) {
  WorkShare first(at, 2, "job", {});
  WorkShare second(at, 2, "job", {});
  EXPECT_EQ(first.take(2), (Items{0, 1}));
  first.give_back(0);
  EXPECT_EQ(second.take(2), (Items{0}));
  first.give_back(0);  // not its own any more
  EXPECT_EQ(first.take(2), Items{});
}

TEST_F(WorkShareTest, WhoeverLeavesGivesBackWhatItHolds) {
  WorkShare host(at, 4, "job", {});
  {
    WorkShare other(at, 4, "job", {});
    EXPECT_EQ(other.take(2), (Items{0, 1}));
    WorkShare third(at, 4, "job", {});
    EXPECT_EQ(third.take(1), (Items{2}));
    third.finish(never);
    EXPECT_EQ(host.progress().processes, 2);
  }
  EXPECT_EQ(host.progress().processes, 1);
  EXPECT_EQ(host.take(9), range(0, 4));
}

TEST_F(WorkShareTest, ManyItemsLieInSeveralBlocks) {
  constexpr std::int64_t kItems = 2 * kBlockItems + 500;
  WorkShare share(at, kItems, "job", {});
  share.done(range(10, 2000));
  EXPECT_EQ(share.progress().done, 1990);
  Items expected = range(0, 10);
  const Items rest = range(2000, kItems);
  expected.insert(expected.end(), rest.begin(), rest.end());
  EXPECT_EQ(share.take(kItems), expected);
  share.done(expected);
  EXPECT_TRUE(share.all_done());
  EXPECT_EQ(share.take(1), Items{});
}

TEST_F(WorkShareTest, NoItemsAreAllDone) {
  WorkShare share(at, 0, "job", {});
  EXPECT_TRUE(share.all_done());
  EXPECT_EQ(share.take(1), Items{});
  share.wait(never);
}

TEST_F(WorkShareTest, WaitingEndsWhenSomethingIsFreeAndWhenInterrupted) {
  WorkShare first(at, 1, "job", {});
  WorkShare second(at, 1, "job", {});
  EXPECT_EQ(first.take(1), (Items{0}));
  int asked = 0;
  second.wait([&] { return ++asked > 2; });  // nothing is free, so all questions are put
  EXPECT_EQ(asked, 3);
  first.give_back(0);
  second.wait(never);
  EXPECT_EQ(second.take(1), (Items{0}));
  second.done(0);
  first.wait(never);
}

TEST_F(WorkShareTest, AnotherJobIsRefusedWhileOthersWork) {
  WorkShare host(at, 3, "job", {});
  expect_error(ErrorKind::kUsage, "work on other prompts or settings",
               [&] { WorkShare(at, 3, "another job", {}); });
  expect_error(ErrorKind::kUsage, "work on other prompts or settings",
               [&] { WorkShare(at, 4, "job", {}); });
  EXPECT_EQ(host.progress().processes, 1);
}

TEST_F(WorkShareTest, AStoreThatLivesOnServesOneJobAfterTheOther) {
  const SharedStore store(at, {});
  for (const char* job : {"job", "another job", "another job"}) {
    WorkShare share(at, 2, job, {});
    EXPECT_FALSE(share.hosts_store());
    EXPECT_EQ(share.take(2), (Items{0, 1}));  // what was done before is told by journals
    share.done(Items{0, 1});
    share.finish(never);
  }
}

// One of two was so quick that all is done before the other has come.
TEST_F(WorkShareTest, WhereTheNumberIsKnownLateOnesFindWhatIsDone) {
  const SharedStore store(at, {});
  at.world_size = 2;
  {
    WorkShare quick(at, 2, "job", {});
    EXPECT_EQ(quick.take(2), (Items{0, 1}));
    quick.done(Items{0, 1});
    quick.finish(never);
  }
  expect_error(ErrorKind::kUsage, "other prompts", [&] { WorkShare(at, 2, "another job", {}); });
  WorkShare late(at, 2, "job", {});
  EXPECT_TRUE(late.all_done());
  EXPECT_EQ(late.id(), 2);
}

TEST_F(WorkShareTest, TheHostWaitsForThoseThatAreStillAtWork) {
  auto host = std::make_unique<WorkShare>(at, 2, "job", WorkShare::Options());
  WorkShare other(at, 2, "job", {});
  EXPECT_EQ(host->take(1), (Items{0}));
  EXPECT_EQ(other.take(1), (Items{1}));
  host->done(0);
  int asked = 0;
  host->finish([&] {
    if (++asked == 3) {  // it would have gone by now if it did not wait
      other.done(1);
      other.finish(never);
    }
    return false;
  });
  EXPECT_GE(asked, 3);
}

// As srun and mpirun start them: at once, and in no order.
TEST_F(WorkShareTest, TheOthersWaitForRankZero) {
  at.launcher = "slurm";
  at.world_size = 2;
  at.rank = 1;
  at.host_store = false;
  std::atomic<bool> waits = false;
  WorkShare::Options options;
  options.interrupted = [&] {
    waits = true;
    return false;
  };
  std::thread other([&] {
    WorkShare share(at, 2, "job", options);
    while (!share.all_done()) {
      for (const std::int64_t item : share.take(1)) share.done(item);
      share.wait(never);
    }
    share.finish(never);
  });
  while (!waits) std::this_thread::yield();
  Rendezvous here = at;
  here.rank = 0;
  here.host_store = true;
  WorkShare share(here, 2, "job", {});
  EXPECT_TRUE(share.hosts_store());
  share.finish(
      never);  // nothing done yet: it stays for the other one, though that may be yet to come
  other.join();
}

TEST_F(WorkShareTest, NobodyListens) {
  at.launcher = "torchrun";
  at.host_store = false;
  WorkShare::Options options;
  options.connect_seconds = 0.3;
  expect_error(ErrorKind::kIo, "nothing listens at the rendezvous 127.0.0.1:", [&] {
    WorkShare(at, 1, "job", options);
  });
  options.connect_seconds = 60;
  options.interrupted = at_once;
  expect_error(ErrorKind::kInterrupted, "interrupted", [&] { WorkShare(at, 1, "job", options); });
}

TEST_F(WorkShareTest, SomethingElseListens) {
  const auto listening = listen_on(at.host, at.port);
  ASSERT_TRUE(listening);
  EXPECT_FALSE(listen_on(at.host, at.port));
  WorkShare::Options options;
  options.connect_seconds = 0.3;
  options.answer_seconds = 0.3;
  expect_error(ErrorKind::kIo, "is no rendezvous store", [&] { WorkShare(at, 1, "job", options); });
  at.launcher = "slurm";
  expect_error(ErrorKind::kIo, "is taken: set MASTER_PORT",
               [&] { WorkShare(at, 1, "job", options); });
  ::close(*listening);
}

TEST(Sockets, WhichHostsAreThisMachine) {
  for (const char* host : {"127.0.0.1", "127.0.0.2", "localhost", "::1"}) {
    EXPECT_TRUE(is_this_machine(host)) << host;
  }
  // TEST-NET-1 (RFC 5737), and a name that is never given (RFC 2606).
  for (const char* host : {"192.0.2.1", "nobody.invalid"}) {
    EXPECT_FALSE(is_this_machine(host)) << host;
  }
}

}  // namespace
}  // namespace steadyflux
