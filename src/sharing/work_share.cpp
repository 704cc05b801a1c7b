#include "sharing/work_share.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <exception>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "sharing/lease_table.h"
#include "sharing/membership.h"
#include "sharing/poll.h"
#include "sharing/shared_values.h"
#include "sharing/store.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

template <typename Duration>
Duration duration_of(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

StoreOptions store_options(const WorkShare::Options& options) {
  using std::chrono::milliseconds;
  return {duration_of<milliseconds>(options.connect_seconds),
          duration_of<milliseconds>(options.answer_seconds), options.interrupted};
}

bool is_finished(ItemState state) { return state == kDone || state == kFailed; }

}  // namespace

class WorkShare::Impl {
 public:
  Impl(const Rendezvous& rendezvous, std::int64_t items, const std::string& job_key,
       const Options& options)
      : items_(items),
        store_(rendezvous, store_options(options)),
        values_(store_, "steadyflux/1/" + rendezvous.prefix + "/"),
        membership_(values_,
                    {job_key, items, rendezvous.world_size,
                     duration_of<std::chrono::steady_clock::duration>(options.lease_seconds),
                     options.interrupted, options.notice}),
        finished_blocks_(static_cast<std::size_t>((items + kBlockItems - 1) / kBlockItems)) {}

  ~Impl() {
    try {
      give_back_all();
    } catch (const std::exception&) {  // the store is gone, and what it held with it
    }
  }

  std::vector<std::int64_t> take(std::int64_t most) {
    const Session session = membership_.read_session();
    membership_.check_in(session);
    const IsGone is_gone = membership_.judge(session);
    std::vector<std::int64_t> items;
    for (std::size_t number = 0; number < finished_blocks_.size(); ++number) {
      const auto wanted = most - static_cast<std::int64_t>(items.size());
      if (wanted <= 0) break;
      if (finished_blocks_[number]) continue;
      std::vector<std::int64_t> taken;
      const Block block = update_block(
          number, [&](Block& now) { taken = take_from(now, membership_.id(), wanted, is_gone); });
      finished_blocks_[number] = std::all_of(block.begin(), block.end(), is_finished);
      for (const std::int64_t at : taken) {
        items.push_back(static_cast<std::int64_t>(number) * kBlockItems + at);
      }
      held_.insert(items.begin(), items.end());
    }
    return items;
  }

  // Whoever holds it by now: the result is the same.
  void finished(const std::vector<std::int64_t>& items, ItemState result) {
    change(items, [result](ItemState now) { return now == kDone ? now : result; });
  }

  void give_back(const std::vector<std::int64_t>& items) {
    const ItemState mine = leased_by(membership_.id());
    change(items, [mine](ItemState now) { return now == mine ? kFree : now; });
  }

  struct Survey {
    Progress progress;
    bool may_take = false;
  };

  Survey survey() {
    const Session session = membership_.read_session();
    const IsGone is_gone = membership_.judge(session);
    Survey survey;
    Progress& progress = survey.progress;
    progress.items = items_;
    progress.processes = static_cast<std::int64_t>(session.members.size());
    for (std::size_t number = 0; number < finished_blocks_.size(); ++number) {
      for (const ItemState state : read_block(number)) {
        progress.done += state == kDone ? 1 : 0;
        progress.failed += state == kFailed ? 1 : 0;
        progress.leased += is_leased(state) && !is_gone(holder(state)) ? 1 : 0;
        survey.may_take = survey.may_take || steadyflux::may_take(state, is_gone);
      }
    }
    return survey;
  }

  void wait(const std::function<bool()>& interrupted) {
    for (Poll poll; !interrupted(); poll.sleep()) {
      const Survey now = survey();
      if (now.may_take || now.progress.unfinished() == 0) return;
    }
  }

  void finish(const std::function<bool()>& interrupted) {
    give_back_all();
    membership_.leave();
    if (store_.hosts()) membership_.wait_for_others(interrupted);
  }

  bool hosts_store() const { return store_.hosts(); }
  std::int64_t id() const { return membership_.id(); }

 private:
  std::string block_key(std::size_t number) const {
    return std::to_string(membership_.session_number()) + "/items/" + std::to_string(number);
  }

  std::int64_t block_items(std::size_t number) const {
    return std::min(kBlockItems, items_ - static_cast<std::int64_t>(number) * kBlockItems);
  }

  std::string free_block(std::size_t number) const {
    return encode(Block(static_cast<std::size_t>(block_items(number)), kFree));
  }

  Block read_block(std::size_t number) {
    return decode_block(values_.read(block_key(number), free_block(number)), block_items(number));
  }

  Block update_block(std::size_t number, const std::function<void(Block&)>& edit) {
    const auto change = [&](const std::string& now) {
      Block block = decode_block(now, block_items(number));
      edit(block);
      return encode(block);
    };
    return decode_block(values_.update(block_key(number), free_block(number), change),
                        block_items(number));
  }

  void change(const std::vector<std::int64_t>& items,
              const std::function<ItemState(ItemState)>& next) {
    std::map<std::size_t, std::vector<std::size_t>> places;
    for (const std::int64_t item : items) {
      if (item < 0 || item >= items_) {
        throw Error(ErrorKind::kInternal, "item " + std::to_string(item) + " of " +
                                              std::to_string(items_) + " does not exist");
      }
      places[static_cast<std::size_t>(item / kBlockItems)].push_back(
          static_cast<std::size_t>(item % kBlockItems));
    }
    for (const auto& place : places) {
      update_block(place.first, [&](Block& block) {
        for (const std::size_t at : place.second) block[at] = next(block[at]);
      });
    }
    for (const std::int64_t item : items) held_.erase(item);
  }

  void give_back_all() { give_back(std::vector<std::int64_t>(held_.begin(), held_.end())); }

  std::int64_t items_;
  SharedStore store_;
  SharedValues values_;
  Membership membership_;
  std::set<std::int64_t> held_;
  std::vector<bool> finished_blocks_;  // with nothing left to do
};

WorkShare::WorkShare(const Rendezvous& rendezvous, std::int64_t items, const std::string& job_key,
                     const Options& options)
    : impl_(std::make_unique<Impl>(rendezvous, items, job_key, options)) {}

WorkShare::~WorkShare() = default;

std::vector<std::int64_t> WorkShare::take(std::int64_t most) { return impl_->take(most); }

void WorkShare::done(std::int64_t item) { impl_->finished({item}, kDone); }

void WorkShare::done(const std::vector<std::int64_t>& items) { impl_->finished(items, kDone); }

void WorkShare::failed(std::int64_t item) { impl_->finished({item}, kFailed); }

void WorkShare::give_back(std::int64_t item) { impl_->give_back({item}); }

bool WorkShare::all_done() { return progress().unfinished() == 0; }

WorkShare::Progress WorkShare::progress() { return impl_->survey().progress; }

void WorkShare::wait(const std::function<bool()>& interrupted) { impl_->wait(interrupted); }

void WorkShare::finish(const std::function<bool()>& interrupted) { impl_->finish(interrupted); }

bool WorkShare::hosts_store() const { return impl_->hosts_store(); }

std::int64_t WorkShare::id() const { return impl_->id(); }

}  // namespace steadyflux
