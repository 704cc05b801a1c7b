// Taking part in a session: joining it (or beginning one, when those of the last have left or
// died), proving to live by a counter that a thread raises, judging by theirs whether the others
// live, and leaving.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "sharing/lease_table.h"
#include "sharing/liveness.h"
#include "sharing/shared_values.h"

namespace steadyflux {

struct MembershipOptions {
  std::string job_key;
  std::int64_t items = 0;
  std::int64_t world_size = 0;  // how many will come, if that is known; else 0
  std::chrono::steady_clock::duration lease{};
  std::function<bool()> interrupted = {};
  std::function<void(const std::string&)> notice = {};
};

class Membership {
 public:
  // `values` must live longer. Throws Error{kUsage} while others work on another job.
  Membership(SharedValues& values, MembershipOptions options);
  // Leaves, if that was not done.
  ~Membership();
  Membership(const Membership&) = delete;
  Membership& operator=(const Membership&) = delete;

  std::int64_t session_number() const { return session_; }
  std::int64_t id() const { return id_; }

  Session read_session();
  // Throws Error{kIo} if the others have begun another session without this process.
  void check_in(const Session& session) const;
  // Of members of `session`, who has left or is dead; one that is newer than `session` is not.
  IsGone judge(const Session& session);

  void leave();
  // For the one who hosts the store, after leave().
  void wait_for_others(const std::function<bool()>& interrupted);

 private:
  enum class Verdict { kJoin, kBeginAnew, kLookAgain };

  void join();
  bool try_to_join(const std::string& name);
  Verdict judge_session(const Session& session);
  bool is_same_job(const Session& session) const;
  [[noreturn]] void refuse() const;
  void wait_a_little(std::chrono::steady_clock::time_point begin);

  void look_at(const Session& session);
  bool any_lives(const Session& session);
  bool any_may_live(const Session& session);
  void keep_beating() noexcept;

  SharedValues& values_;
  MembershipOptions options_;
  std::int64_t session_ = 0;
  std::int64_t id_ = 0;
  bool left_ = false;
  bool noticed_ = false;

  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  bool stop_asked_ = false;
  std::int64_t looking_at_ = 0;  // the session that `liveness_` speaks of
  Liveness liveness_;

  std::thread heart_;
};

}  // namespace steadyflux
