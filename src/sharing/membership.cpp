#include "sharing/membership.h"

#include <unistd.h>

#include <algorithm>
#include <exception>
#include <optional>
#include <random>
#include <set>
#include <utility>

#include "base/quiet_thread.h"
#include "sharing/poll.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr char kSessionKey[] = "session";
// Beats cost one small request; a process that comes later waits for one to see that others live.
constexpr Clock::duration kLongestBeat = milliseconds(250);
constexpr Clock::duration kJoinInterval = milliseconds(60);
constexpr Clock::duration kNoticeAfter = milliseconds(2000);
constexpr int kLooksPerLease = 6;

std::string unique_name() {
  char host[256] = "";
  if (gethostname(host, sizeof(host) - 1) != 0) host[0] = '\0';
  std::random_device random;
  const std::uint64_t number = std::uint64_t{random()} << 32 | random();
  return std::string(host) + ":" + std::to_string(getpid()) + ":" + std::to_string(number);
}

std::string beat_key(std::int64_t session, std::int64_t id) {
  return std::to_string(session) + "/beat/" + std::to_string(id);
}

}  // namespace

Membership::Membership(SharedValues& values, MembershipOptions options)
    : values_(values), options_(std::move(options)), liveness_(options_.lease) {
  join();
  heart_ = start_quiet_thread([this] { keep_beating(); });
}

Membership::~Membership() {
  try {
    leave();
  } catch (const std::exception&) {  // the store is gone: there is nothing to leave
  }
  {
    const std::lock_guard lock(mutex_);
    stop_asked_ = true;
  }
  wake_.notify_one();
  heart_.join();
}

Session Membership::read_session() {
  return decode_session(values_.read(kSessionKey, encode(Session())));
}

void Membership::check_in(const Session& session) const {
  if (session.number == session_ && session.has(id_)) return;
  throw Error(ErrorKind::kIo,
              "this process was silent for so long that others began anew without it; run the same "
              "command again to go on");
}

bool Membership::is_same_job(const Session& session) const {
  return session.job_key == options_.job_key && session.items == options_.items;
}

void Membership::refuse() const {
  throw Error(
      ErrorKind::kUsage,
      "the processes that meet at " + values_.place() +
          " work on other prompts or settings than this one: run the same command in all of "
          "them, or let this one meet elsewhere (--rendezvous)");
}

// A session is over when its members have left or are dead: what it knows to be done need not be
// true any more. One whose processes are counted is not over before all have come.
Membership::Verdict Membership::judge_session(const Session& session) {
  if (session.number == 0) return Verdict::kBeginAnew;
  if (session.joined >= options_.world_size) {
    look_at(session);
    if (!any_may_live(session)) return Verdict::kBeginAnew;
    if (!any_lives(session)) return Verdict::kLookAgain;
  }
  if (!is_same_job(session)) refuse();
  return Verdict::kJoin;
}

void Membership::wait_a_little(Clock::time_point begin) {
  if (options_.interrupted && options_.interrupted()) {
    throw Error(ErrorKind::kInterrupted, "interrupted");
  }
  if (!noticed_ && Clock::now() - begin > kNoticeAfter && options_.notice) {
    options_.notice("waiting to see whether the processes that met at " + values_.place() +
                    " before still live");
    noticed_ = true;
  }
  std::this_thread::sleep_for(kJoinInterval);
}

bool Membership::try_to_join(const std::string& name) {
  const std::string text = values_.read(kSessionKey, encode(Session()));
  Session session = decode_session(text);
  const Verdict verdict = judge_session(session);
  if (verdict == Verdict::kLookAgain) return false;
  if (verdict == Verdict::kBeginAnew) {
    session = {session.number + 1, options_.job_key, options_.items, 0, {}};
  }
  const std::int64_t id = ++session.joined;
  session.members.push_back({id, name});
  if (!values_.replace(kSessionKey, text, encode(session))) return false;
  session_ = session.number;
  id_ = id;
  return true;
}

void Membership::join() {
  const std::string name = unique_name();
  const auto begin = Clock::now();
  while (!try_to_join(name)) wait_a_little(begin);
}

void Membership::leave() {
  if (left_) return;
  left_ = true;
  values_.update(
      kSessionKey, encode(Session()), [this](const std::string& now) -> std::optional<std::string> {
        Session session = decode_session(now);
        if (session.number != session_) return std::nullopt;
        std::erase_if(session.members, [this](const Member& member) { return member.id == id_; });
        return encode(session);
      });
}

void Membership::wait_for_others(const std::function<bool()>& interrupted) {
  const auto until = Clock::now() + options_.lease;
  for (Poll poll; !interrupted(); poll.sleep()) {
    const Session session = read_session();
    if (session.number != session_) return;
    const bool to_come = session.joined < options_.world_size && Clock::now() < until;
    if (!to_come && !any_may_live(session)) return;
  }
}

void Membership::look_at(const Session& session) {
  for (const Member& member : session.members) {
    if (session.number == session_ && member.id == id_) continue;
    const std::int64_t counter = values_.add(beat_key(session.number, member.id), 0);
    const std::lock_guard lock(mutex_);
    if (looking_at_ != session.number) liveness_ = Liveness(options_.lease);
    looking_at_ = session.number;
    liveness_.saw(member.id, counter, Clock::now());
  }
}

bool Membership::any_lives(const Session& session) {
  const std::lock_guard lock(mutex_);
  return std::any_of(session.members.begin(), session.members.end(), [&](const Member& other) {
    return looking_at_ == session.number && liveness_.lives(other.id);
  });
}

bool Membership::any_may_live(const Session& session) {
  const std::lock_guard lock(mutex_);
  return std::any_of(session.members.begin(), session.members.end(), [&](const Member& other) {
    const bool is_me = session.number == session_ && other.id == id_;
    return !is_me && !(looking_at_ == session.number && liveness_.is_dead(other.id));
  });
}

IsGone Membership::judge(const Session& session) {
  std::set<std::int64_t> present = {id_};
  const std::lock_guard lock(mutex_);
  for (const Member& member : session.members) {
    const bool is_dead = looking_at_ == session.number && liveness_.is_dead(member.id);
    if (!is_dead) present.insert(member.id);
  }
  return [present = std::move(present), newest = session.joined](std::int64_t id) {
    return id <= newest && present.count(id) == 0;
  };
}

// Runs in a thread of its own, where nothing may be thrown. When the store is gone there is nobody
// to live for: the next call of the working thread will say so.
void Membership::keep_beating() noexcept {
  const Clock::duration look_interval = options_.lease / kLooksPerLease;
  const Clock::duration interval = std::min(look_interval, kLongestBeat);
  auto next_look = Clock::now();
  std::unique_lock lock(mutex_);
  while (!stop_asked_) {
    lock.unlock();
    try {
      values_.add(beat_key(session_, id_), 1);
      if (Clock::now() >= next_look) {
        const Session session = read_session();
        if (session.number == session_) look_at(session);
        next_look = Clock::now() + look_interval;
      }
    } catch (const Error&) {
      return;
    } catch (const std::exception&) {  // no memory for it now: at the next beat
    }
    lock.lock();
    wake_.wait_for(lock, interval, [this] { return stop_asked_; });
  }
}

}  // namespace steadyflux
