#include "nn/reused_buffers.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <cstddef>
#include <deque>
#include <iterator>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

namespace steadyflux {
namespace {

constexpr std::size_t kLeastBytes = std::size_t{1} << 19;  // return_large_blocks_at_once()
constexpr std::size_t kMostWaste = 8;  // a tensor leaves at most one part in so many unused

struct Block {
  c10::DataPtr memory;
  std::size_t size;
  std::weak_ptr<ReusedBuffers::Kept> home;
};

}  // namespace

class ReusedBuffers::Kept {
 public:
  // One of at least `size` bytes. Without one, what was kept longest is freed, as far as memory
  // that is new would raise the peak beside it.
  std::unique_ptr<Block> take(std::size_t size) {
    std::vector<std::unique_ptr<Block>> too_many;  // freed behind the lock
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(blocks_.rbegin(), blocks_.rend(), [&](const auto& block) {
      return block->size >= size && block->size - size <= block->size / kMostWaste;
    });
    if (found != blocks_.rend()) {
      auto block = std::move(*found);
      blocks_.erase(std::prev(found.base()));
      kept_ -= block->size;
      count(block->size);
      return block;
    }
    while (!blocks_.empty() && in_use_ + kept_ + size > most_in_use_) {
      kept_ -= blocks_.front()->size;
      too_many.push_back(std::move(blocks_.front()));
      blocks_.pop_front();
    }
    return nullptr;
  }

  // One whose memory was new.
  void add(std::size_t size) {
    const std::lock_guard lock(mutex_);
    count(size);
  }

  void keep(std::unique_ptr<Block> block) {
    const std::lock_guard lock(mutex_);
    in_use_ -= block->size;
    kept_ += block->size;
    blocks_.push_back(std::move(block));
  }

 private:
  void count(std::size_t size) {
    in_use_ += size;
    most_in_use_ = std::max(most_in_use_, in_use_);
  }

  std::mutex mutex_;
  std::deque<std::unique_ptr<Block>> blocks_;            // what was freed last is last
  std::size_t in_use_ = 0, kept_ = 0, most_in_use_ = 0;  // bytes
};

namespace {

thread_local std::shared_ptr<ReusedBuffers::Kept> kept_here;

c10::Allocator& plain() { return *c10::GetDefaultCPUAllocator(); }

// Blocks whose memory is in use, by its address: oneDNN knows no more of what it frees.
class BlocksInUse {
 public:
  void* add(std::unique_ptr<Block> block) {
    const std::lock_guard lock(mutex_);
    auto* data = block->memory.get();
    blocks_[data] = std::move(block);
    return data;
  }

  std::unique_ptr<Block> remove(void* data) {
    const std::lock_guard lock(mutex_);
    const auto found = blocks_.find(data);
    if (found == blocks_.end()) return nullptr;
    auto block = std::move(found->second);
    blocks_.erase(found);
    return block;
  }

 private:
  std::mutex mutex_;
  std::unordered_map<void*, std::unique_ptr<Block>> blocks_;
};

BlocksInUse& in_use() {
  static auto* blocks = new BlocksInUse;  // tensors may be freed after the end of main
  return *blocks;
}

void give_back(void* data) {
  auto block = in_use().remove(data);
  if (!block) return plain().raw_deleter()(data);
  if (const auto home = block->home.lock()) home->keep(std::move(block));
}

// libtorch's own, but for threads that have ReusedBuffers.
class Allocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t size) override {
    if (!kept_here || size < kLeastBytes) return plain().allocate(size);
    auto block = kept_here->take(size);
    if (!block) {
      block.reset(new Block{plain().allocate(size), size, kept_here});
      kept_here->add(size);
    }
    const auto device = block->memory.device();
    auto* data = in_use().add(std::move(block));
    return {data, data, &give_back, device};
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

ReusedBuffers::ReusedBuffers() : outer_(std::exchange(kept_here, std::make_shared<Kept>())) {}

ReusedBuffers::~ReusedBuffers() { kept_here = outer_; }

}  // namespace steadyflux
