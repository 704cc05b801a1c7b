// libtorch's key-value store (c10d's TCPStore) as a few processes need it to share work: compare
// and set, and counters. One thread of its own does all the talking, and runs the server if this
// process hosts it: a server that stopped answering costs the caller a bounded wait, and no
// exception surfaces where nobody catches it.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "sharing/rendezvous.h"

namespace steadyflux {

struct StoreOptions {
  std::chrono::milliseconds connect_time{60000};  // for somebody to listen
  std::chrono::milliseconds answer_time{10000};   // for one request
  // Asked while waiting; true ends the wait with Error{kInterrupted}. May throw an error of its
  // own.
  std::function<bool()> interrupted = {};
};

// May be used by several threads. Every call throws Error{kIo} once the store is gone.
class SharedStore {
 public:
  // Connects to the store at the rendezvous, or hosts it there.
  SharedStore(const Rendezvous& rendezvous, const StoreOptions& options);
  ~SharedStore();
  SharedStore(const SharedStore&) = delete;
  SharedStore& operator=(const SharedStore&) = delete;

  // Sets `key` to `desired` if it holds `expected`; a key that is not there holds "". Gives back
  // what it holds then: `desired` where it was set.
  std::string compare_set(const std::string& key, const std::string& expected,
                          const std::string& desired);
  std::int64_t add(const std::string& key, std::int64_t amount);  // gives back the sum

  bool hosts() const;                // the store ends with this process
  const std::string& place() const;  // "HOST:PORT"

 private:
  struct State;
  std::shared_ptr<State> state_;  // the thread holds it too
};

}  // namespace steadyflux
