#include "sharing/store.h"

#include <c10/util/Logging.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <utility>
#include <vector>

#include "base/quiet_thread.h"
#include "sharing/sockets.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kProbeTime(2000);
constexpr milliseconds kRetryTime(100);
constexpr milliseconds kFarewellTime(200);  // for a thread whose store is gone

std::vector<std::uint8_t> bytes_of(const std::string& text) { return {text.begin(), text.end()}; }

// c10d logs what goes wrong, with the frames of the call, before it throws what becomes our one
// line. Whoever sets TORCH_CPP_LOG_LEVEL wants to see it.
void quieten_c10d() {
  if (std::getenv("TORCH_CPP_LOG_LEVEL") == nullptr) FLAGS_caffe2_log_level = c10::GLOG_FATAL;
}

}  // namespace

// The thread takes requests one by one. A request that is not answered in time leaves the thread
// behind: it holds this state, and ends by itself if an answer ever comes.
struct SharedStore::State {
  std::string place;
  milliseconds answer_time{0};
  bool hosts = false;

  std::mutex mutex;  // guards what follows
  std::condition_variable wake;
  std::deque<std::function<void()>> requests;
  bool stop_asked = false;
  bool gone = false;
  bool ended = false;
  std::thread thread;

  c10::intrusive_ptr<c10d::TCPStore> store;  // only the thread touches it

  Error gone_error() const {
    return Error(ErrorKind::kIo, "the rendezvous store at " + place +
                                     " is gone; run the same command again to go on");
  }

  static void start(const std::shared_ptr<State>& state) {
    state->thread = start_quiet_thread([state] { state->run(); });
  }

  void run() {
    std::unique_lock lock(mutex);
    for (;;) {
      wake.wait(lock, [this] { return stop_asked || !requests.empty(); });
      if (requests.empty()) break;
      const auto request = std::move(requests.front());
      requests.pop_front();
      lock.unlock();
      request();
      lock.lock();
    }
    lock.unlock();
    store.reset();  // ends the server too
    lock.lock();
    ended = true;
    wake.notify_all();
  }

  // Runs `action` in the thread. Throws what it threw; nothing for what was not done in time.
  template <typename Result>
  std::optional<Result> in_thread(std::function<Result()> action) {
    struct Answer {
      std::optional<Result> result;
      std::exception_ptr error;
    };
    const auto answer = std::make_shared<Answer>();
    const auto deadline = Clock::now() + answer_time;
    std::unique_lock lock(mutex);
    if (gone) throw gone_error();
    requests.emplace_back([this, answer, action = std::move(action)] {
      Answer given;
      try {
        given.result = action();
      } catch (...) {
        given.error = std::current_exception();
      }
      const std::lock_guard guard(mutex);
      *answer = std::move(given);
      wake.notify_all();
    });
    wake.notify_all();
    wake.wait_until(lock, deadline, [&] { return answer->result || answer->error; });
    if (answer->error) std::rethrow_exception(answer->error);
    return answer->result;
  }

  template <typename Result>
  Result ask(std::function<Result()> action) {
    try {
      if (auto result = in_thread<Result>(std::move(action))) return *result;
    } catch (const Error&) {
      throw;
    } catch (const std::exception&) {
      // Whatever c10d says: the connection is of no use any more.
    }
    const std::lock_guard lock(mutex);
    gone = true;
    throw gone_error();
  }

  void open(const std::string& host, std::uint16_t port, const std::optional<int>& listening) {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = listening.has_value();
    options.masterListenFd = listening;
    options.waitWorkers = false;
    options.timeout = answer_time;
    hosts = listening.has_value();
    std::optional<bool> opened;
    try {
      opened = in_thread<bool>([this, host, options] {
        store = c10::make_intrusive<c10d::TCPStore>(host, options);
        return true;
      });
    } catch (const std::exception&) {
    }
    if (!opened) {
      {
        const std::lock_guard lock(mutex);
        gone = true;
      }
      throw Error(ErrorKind::kIo, (hosts ? "cannot host a rendezvous store at "
                                         : "what listens is no rendezvous store: ") +
                                      place);
    }
  }

  void close() {
    std::unique_lock lock(mutex);
    stop_asked = true;
    if (gone) requests.clear();
    wake.notify_all();
    const auto time = gone ? std::min(answer_time, kFarewellTime) : answer_time;
    const bool in_time = wake.wait_for(lock, time, [this] { return ended; });
    lock.unlock();
    if (!thread.joinable()) return;
    if (in_time) {
      thread.join();
    } else {
      thread.detach();
    }
  }
};

namespace {

void check_interrupted(const StoreOptions& options) {
  if (options.interrupted && options.interrupted()) {
    throw Error(ErrorKind::kInterrupted, "interrupted");
  }
}

std::string nothing_listens(const Rendezvous& at, const std::string& place,
                            const StoreOptions& options) {
  const auto seconds = std::chrono::ceil<std::chrono::seconds>(options.connect_time).count();
  std::string text =
      "nothing listens at the rendezvous " + place + " (waited " + std::to_string(seconds) + " s)";
  if (at.launcher == "option") {
    text += ": start a process on that machine first, or name another address";
  } else if (at.launcher == "torchrun") {
    text += ": is torchrun running, and MASTER_ADDR reachable from here?";
  } else {
    text += ": rank 0 should be there; --rendezvous HOST:PORT names another address";
  }
  return text;
}

// Waits until there is a store to connect to, or a port to host it on: then gives the socket that
// listens there.
std::optional<int> find_way(const Rendezvous& at, const std::string& place,
                            const StoreOptions& options) {
  const bool if_nobody_else = at.launcher == "option";
  const bool may_host = at.host_store && (!if_nobody_else || is_this_machine(at.host));
  const auto deadline = Clock::now() + options.connect_time;
  for (;;) {
    const bool connect = !may_host || if_nobody_else;
    const auto left = std::chrono::duration_cast<milliseconds>(deadline - Clock::now());
    const auto time = std::clamp(left, milliseconds(1), kProbeTime);
    if (connect && something_listens(at.host, at.port, time)) return std::nullopt;
    if (may_host) {
      if (const auto listening = listen_on(at.host, at.port)) return listening;
    }
    if (Clock::now() >= deadline) break;
    check_interrupted(options);
    std::this_thread::sleep_for(kRetryTime);
  }
  if (may_host) {
    throw Error(ErrorKind::kIo, "port " + std::to_string(at.port) + " of this machine is taken: " +
                                    (if_nobody_else ? "name another address" : "set MASTER_PORT"));
  }
  throw Error(ErrorKind::kIo, nothing_listens(at, place, options));
}

}  // namespace

SharedStore::SharedStore(const Rendezvous& rendezvous, const StoreOptions& options)
    : state_(std::make_shared<State>()) {
  const bool ipv6 = rendezvous.host.find(':') != std::string::npos;
  state_->place = (ipv6 ? "[" + rendezvous.host + "]" : rendezvous.host) + ":" +
                  std::to_string(rendezvous.port);
  state_->answer_time = options.answer_time;
  const auto listening = find_way(rendezvous, state_->place, options);
  quieten_c10d();
  State::start(state_);
  try {
    state_->open(rendezvous.host, rendezvous.port, listening);
  } catch (...) {
    state_->close();
    throw;
  }
}

SharedStore::~SharedStore() { state_->close(); }

std::string SharedStore::compare_set(const std::string& key, const std::string& expected,
                                     const std::string& desired) {
  return state_->ask<std::string>([state = state_.get(), key, expected, desired] {
    const auto held = state->store->compareSet(key, bytes_of(expected), bytes_of(desired));
    return std::string(held.begin(), held.end());
  });
}

std::int64_t SharedStore::add(const std::string& key, std::int64_t amount) {
  return state_->ask<std::int64_t>(
      [state = state_.get(), key, amount] { return state->store->add(key, amount); });
}

bool SharedStore::hosts() const { return state_->hosts; }

const std::string& SharedStore::place() const { return state_->place; }

}  // namespace steadyflux
