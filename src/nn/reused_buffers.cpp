#include "nn/reused_buffers.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <cstddef>
#include <deque>
#include <iterator>
#include <mutex>
#include <new>
#include <optional>
#include <unordered_map>
#include <utility>

#include "base/pages.h"

namespace steadyflux {
namespace {

constexpr std::size_t kMostWaste = 8;  // a tensor leaves at most one part in so many unused

struct Block {
  Pages pages;
  std::weak_ptr<ReusedBuffers::Kept> home;
};

}  // namespace

class ReusedBuffers::Kept {
 public:
  // Of at least `size` bytes: as it was kept, or else of pages of what was kept longest. Pages that
  // are new are so only if all that was kept did not suffice. Throws std::bad_alloc.
  Pages take(std::size_t size) {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(kept_.rbegin(), kept_.rend(), [&](const Pages& pages) {
      return pages.size() >= size && pages.size() - size <= pages.size() / kMostWaste;
    });
    if (found == kept_.rend()) return take_parts(size);
    auto pages = std::move(*found);
    kept_.erase(std::prev(found.base()));
    return pages;
  }

  void clear() {
    const std::lock_guard lock(mutex_);
    kept_.clear();
  }

  void keep(Pages pages) {
    const std::lock_guard lock(mutex_);
    kept_.push_back(std::move(pages));
  }

 private:
  Pages take_parts(std::size_t size) {
    auto pages = Pages::take(size, kept_);
    if (!kept_.empty() && kept_.front().size() < kLargeBlock) kept_.pop_front();
    return pages;
  }

  std::mutex mutex_;
  std::deque<Pages> kept_;  // what was freed last is last
};

namespace {

thread_local std::shared_ptr<ReusedBuffers::Kept> kept_here;

c10::Allocator& plain() { return *c10::GetDefaultCPUAllocator(); }

// Blocks whose memory is in use, by its address: oneDNN knows no more of what it frees.
class BlocksInUse {
 public:
  void* add(Block block) {
    const std::lock_guard lock(mutex_);
    auto* data = block.pages.data();
    blocks_.emplace(data, std::move(block));
    return data;
  }

  std::optional<Block> remove(void* data) {
    const std::lock_guard lock(mutex_);
    auto node = blocks_.extract(data);
    if (node.empty()) return std::nullopt;
    return std::move(node.mapped());
  }

 private:
  std::mutex mutex_;
  std::unordered_map<void*, Block> blocks_;
};

BlocksInUse& in_use() {
  static auto* blocks = new BlocksInUse;  // tensors may be freed after the end of main
  return *blocks;
}

void give_back(void* data) {
  auto block = in_use().remove(data);
  if (!block) return plain().raw_deleter()(data);
  try {
    if (const auto home = block->home.lock()) home->keep(std::move(block->pages));
  } catch (const std::bad_alloc&) {  // they go back to the system
  }
}

// libtorch's own, but for threads that have ReusedBuffers.
class Allocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t size) override {
    if (!kept_here || size < kLargeBlock) return plain().allocate(size);
    try {
      auto* data = in_use().add(Block{kept_here->take(size), kept_here});
      return {data, data, &give_back, c10::Device(c10::kCPU)};
    } catch (const std::bad_alloc&) {
      kept_here->clear();
      return plain().allocate(size);
    }
  }
  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
  void copy_data(void* to, const void* from, std::size_t count) const override {
    plain().copy_data(to, from, count);
  }
};

// As libtorch registers its own: before main, when there is one thread.
[[maybe_unused]] const bool registered = [] {
  static Allocator allocator;
  c10::SetCPUAllocator(&allocator, /*priority=*/1);
  return true;
}();

}  // namespace

ReusedBuffers::ReusedBuffers() : outermost_(!kept_here) {
  if (outermost_) kept_here = std::make_shared<Kept>();
}

ReusedBuffers::~ReusedBuffers() {
  if (outermost_) kept_here.reset();
}

}  // namespace steadyflux
