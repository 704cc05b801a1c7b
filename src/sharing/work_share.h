// One list of items (the entries of a prompt file), worked through by several processes: each takes
// the next when it is free, and what a dead process held is taken again when its lease has run out.
// What the processes know of each other is in a shared store (store.h); docs/sharing.md tells how
// it works and what is promised.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "sharing/rendezvous.h"

namespace steadyflux {

class WorkShare {
 public:
  struct Options {
    double lease_seconds = 30;    // of silence, until a process counts as dead
    double connect_seconds = 60;  // for somebody to listen at the rendezvous
    double answer_seconds = 10;   // for the store to answer
    // Asked while the constructor waits; true ends it with Error{kInterrupted}. May throw.
    std::function<bool()> interrupted = {};
    // Told, in one line, what is being waited for if that takes long.
    std::function<void(const std::string&)> notice = {};
  };

  struct Progress {
    std::int64_t items = 0;
    std::int64_t done = 0;
    std::int64_t failed = 0;
    std::int64_t leased = 0;     // to living processes, this one included
    std::int64_t processes = 0;  // that take part now, dead ones not yet noticed included

    std::int64_t unfinished() const { return items - done - failed; }
  };

  // Meets the others. `job_key` is the same for all processes of one job (a hash of its prompts);
  // a process with another one, or with another number of items, is refused with Error{kUsage}
  // while others work. What was finished before is to be told by done() after this.
  WorkShare(const Rendezvous& rendezvous, std::int64_t items, const std::string& job_key,
            const Options& options);
  // Leaves without waiting for anybody. finish() is for those that got to the end.
  ~WorkShare();
  WorkShare(const WorkShare&) = delete;
  WorkShare& operator=(const WorkShare&) = delete;

  // All of these are called by one thread, and throw Error{kIo} when the store is gone.

  // The first items that nobody has done and no living process holds, at most `most`; they are
  // leased to this process until done, failed or given back. Empty: nothing is left for now.
  std::vector<std::int64_t> take(std::int64_t most);
  void done(std::int64_t item);
  void done(const std::vector<std::int64_t>& items);  // in one go, for what was done before
  void failed(std::int64_t item);
  void give_back(std::int64_t item);  // does nothing if another process has it by now

  bool all_done();  // every item is done or failed
  Progress progress();
  // Waits until something may be taken, all is done, or `interrupted` says so.
  void wait(const std::function<bool()>& interrupted);
  // Gives back what is held and leaves. The process that hosts the store then waits until all
  // others have left or are dead, or `interrupted` says so. No other call may follow.
  void finish(const std::function<bool()>& interrupted);

  bool hosts_store() const;
  std::int64_t id() const;  // of this process among all that ever took part, from 1

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace steadyflux
