// What stands in the store, and how it changes: pure functions on values, which work_share.cpp puts
// into the store by compare and set. A session is the processes that work on one job; its items are
// kept in blocks of kBlockItems, each one value in the store, so that a take changes one value
// whatever the number of items.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace steadyflux {

constexpr std::int64_t kBlockItems = 1024;

// One process of a session.
struct Member {
  std::int64_t id = 0;  // counted from 1 in its session
  std::string name;     // of no other process: host, pid and a random number
};

struct Session {
  std::int64_t number = 0;  // 0: none yet
  std::string job_key;
  std::int64_t items = 0;
  std::int64_t joined = 0;      // members that ever were: the last id
  std::vector<Member> members;  // that have not left

  bool has(std::int64_t id) const;
};

std::string encode(const Session& session);
Session decode_session(const std::string& text);  // throws Error{kBadInput}

// The state of an item: free, done, failed, or 2 + the id of the member that leases it.
using ItemState = std::uint32_t;
constexpr ItemState kFree = 0;
constexpr ItemState kDone = 1;
constexpr ItemState kFailed = 2;

constexpr ItemState leased_by(std::int64_t id) { return static_cast<ItemState>(id + 2); }
constexpr bool is_leased(ItemState state) { return state > kFailed; }
constexpr std::int64_t holder(ItemState state) { return static_cast<std::int64_t>(state) - 2; }

using Block = std::vector<ItemState>;

std::string encode(const Block& block);
Block decode_block(const std::string& bytes, std::int64_t items);  // throws Error{kBadInput}

// Whether items leased by this member are free again.
using IsGone = std::function<bool(std::int64_t id)>;

bool may_take(ItemState state, const IsGone& is_gone);

// Leases up to `most` items, in their order, to `id`; gives their places in the block.
std::vector<std::int64_t> take_from(Block& block, std::int64_t id, std::int64_t most,
                                    const IsGone& is_gone);

}  // namespace steadyflux
