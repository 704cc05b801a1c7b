// Memory of the simulated device, and pinned memory of the host. A block's address is a stretch of
// address space nobody may touch; its bytes lie elsewhere, and are kept as long as something that
// was put off will use them, even when the block is freed and counted no more.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/CachingHostAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <set>

#include "simulated_device/cache_model.h"
#include "simulated_device/simulated_device.h"
#include "simulated_device/streams.h"

namespace steadyflux::testing {

inline const c10::Device kDevice(c10::DeviceType::PrivateUse1, 0);

// Held around all that follows.
using DeviceLock = std::lock_guard<std::recursive_mutex>;
inline std::recursive_mutex& device_mutex() {
  static auto* instance = new std::recursive_mutex;
  return *instance;
}

// libtorch's registries are global and outlive everything, so is what is registered.
inline Streams& streams() {
  static auto* instance = new Streams;
  return *instance;
}

inline StreamNumber& current_stream() {
  static thread_local StreamNumber stream = 0;
  return stream;
}

using HostBytes = std::shared_ptr<std::byte>;

inline HostBytes allocate_host(std::size_t size) {
  constexpr std::align_val_t kAlignment{64};
  return {static_cast<std::byte*>(::operator new(std::max<std::size_t>(size, 1), kAlignment)),
          [](std::byte* p) { ::operator delete(p, kAlignment); }};
}

// Memory that nothing was written to yet: NaN in every floating-point type.
constexpr int kGarbage = 0xFF;

struct Block {
  std::size_t size = 0;
  HostBytes bytes;
  // On the device only.
  std::int64_t position = 0;
  StreamNumber stream = 0;  // it was allocated on
  std::set<StreamNumber> recorded;
  Streams::Uses uses;
};

// Blocks by address.
class Blocks {
 public:
  Block* find(const void* pointer) {
    const auto address = reinterpret_cast<std::uintptr_t>(pointer);
    auto it = blocks_.upper_bound(address);
    if (it == blocks_.begin()) return nullptr;
    --it;
    return address < it->first + it->second.size ? &it->second : nullptr;
  }
  // The bytes at an address; they keep the whole block.
  HostBytes bytes_at(const void* pointer) {
    const auto address = reinterpret_cast<std::uintptr_t>(pointer);
    auto it = blocks_.upper_bound(address);
    TORCH_CHECK(it != blocks_.begin(), "not an address of the simulated device");
    --it;
    TORCH_CHECK(address < it->first + it->second.size, "not an address of the simulated device");
    const auto& bytes = it->second.bytes;
    return {bytes, bytes.get() + (address - it->first)};
  }
  void add(void* address, Block block) {
    blocks_[reinterpret_cast<std::uintptr_t>(address)] = std::move(block);
  }
  Block take(void* address) {
    return std::move(blocks_.extract(reinterpret_cast<std::uintptr_t>(address)).mapped());
  }

 private:
  std::map<std::uintptr_t, Block> blocks_;
};

class Memory : public c10::DeviceAllocator {
 public:
  c10::DataPtr allocate(std::size_t size) override {
    const DeviceLock lock(device_mutex());
    if (size == 0) return {nullptr, kDevice};
    ++allocations_;
    const auto stream = current_stream();
    const bool chosen = allocations_ == fail_at_ || allocations_ >= fail_from_;
    const auto position = chosen ? std::nullopt : find_place(stream, size);
    if (!position) {
      ++stats_.num_ooms;
      TORCH_CHECK_WITH(OutOfMemoryError, false,
                       "simulated device out of memory: tried to allocate ", size, " bytes; ",
                       limit_ - allocated().current, " of ", limit_, " are free");
    }
    void* address =
        mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED) throw std::bad_alloc();
    auto bytes = allocate_host(size);
    std::memset(bytes.get(), kGarbage, size);
    blocks_.add(
        address,
        {size, std::move(bytes), *position, stream, {}, streams().uses_of_new_memory(stream)});
    allocated().increase(size);
    largest_ = std::max(largest_, static_cast<std::int64_t>(size));
    update_reserved();
    return {address, address, &Memory::release, kDevice};
  }

  void copy_data(void* to, const void* from, std::size_t count) const override {
    const DeviceLock lock(device_mutex());
    std::memcpy(blocks_.bytes_at(to).get(), blocks_.bytes_at(from).get(), count);
  }

  Blocks& blocks() { return blocks_; }

  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {
    const DeviceLock lock(device_mutex());
    cache_.give_back();
    update_reserved();
  }
  void recordStream(const c10::DataPtr& data, c10::Stream stream) override {
    const DeviceLock lock(device_mutex());
    if (auto* block = blocks_.find(data.get())) block->recorded.insert(stream.id());
  }
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex) override {
    const DeviceLock lock(device_mutex());
    return stats_;
  }
  void resetAccumulatedStats(c10::DeviceIndex) override {
    const DeviceLock lock(device_mutex());
    allocated().reset_accumulated();
    reserved().reset_accumulated();
    stats_.num_alloc_retries = 0;
    stats_.num_ooms = 0;
  }
  void resetPeakStats(c10::DeviceIndex) override {
    const DeviceLock lock(device_mutex());
    allocated().reset_peak();
    reserved().reset_peak();
    largest_ = 0;
  }
  std::pair<std::size_t, std::size_t> getMemoryInfo(c10::DeviceIndex) override {
    const DeviceLock lock(device_mutex());
    return {static_cast<std::size_t>(std::max<std::int64_t>(limit_ - reserved().current, 0)),
            static_cast<std::size_t>(limit_)};
  }

  void set_limit(std::int64_t bytes) {
    limit_ = bytes;
    if (cache_.reserved() > limit_) cache_.give_back();
    update_reserved();
  }
  void fail(std::int64_t at, std::int64_t from) {
    fail_at_ = at;
    fail_from_ = from == 0 ? std::numeric_limits<std::int64_t>::max() : from;
    allocations_ = 0;
  }
  std::int64_t allocations() const { return allocations_; }
  std::int64_t largest() const { return largest_; }

 private:
  static void release(void* address);

  // As CUDA's allocator: from what is kept, else from the device, else after giving back all that
  // is kept.
  std::optional<std::int64_t> find_place(StreamNumber stream, std::size_t size) {
    const auto bytes = static_cast<std::int64_t>(size);
    if (allocated().current + bytes <= limit_) {
      if (const auto position = cache_.reuse(stream, bytes)) return position;
    }
    if (cache_.reserved() + bytes > limit_ && cache_.free_bytes() > 0) {
      ++stats_.num_alloc_retries;
      cache_.give_back();
      update_reserved();
    }
    if (cache_.reserved() + bytes > limit_) return std::nullopt;
    return cache_.grow(stream, bytes);
  }

  c10::CachingAllocator::Stat& allocated() { return stats_.allocated_bytes[0]; }
  c10::CachingAllocator::Stat& reserved() { return stats_.reserved_bytes[0]; }
  void update_reserved() {
    auto& r = reserved();
    const auto now = cache_.reserved();
    if (now > r.current) r.increase(static_cast<std::size_t>(now - r.current));
    if (now < r.current) r.decrease(static_cast<std::size_t>(r.current - now));
  }

  mutable Blocks blocks_;
  CacheModel cache_;
  c10::CachingDeviceAllocator::DeviceStats stats_;
  std::int64_t limit_ = kNoLimit;
  std::int64_t fail_at_ = 0;
  std::int64_t fail_from_ = std::numeric_limits<std::int64_t>::max();
  std::int64_t allocations_ = 0, largest_ = 0;
};

inline Memory& memory() {
  static auto* instance = new Memory;
  return *instance;
}

inline void Memory::release(void* address) {
  const DeviceLock lock(device_mutex());
  auto& m = memory();
  const auto block = m.blocks_.take(address);
  munmap(address, block.size);
  streams().give_up(block.uses, block.stream,
                    [&](StreamNumber user) { return block.recorded.count(user) != 0; });
  m.cache_.free(block.position);
  m.allocated().decrease(block.size);
}

// Pinned host memory, kept for reuse as a whole: `cached` counts, the bytes themselves are freed.
class PinnedMemory : public at::HostAllocator {
 public:
  c10::DataPtr allocate(std::size_t size) override {
    const DeviceLock lock(device_mutex());
    if (size == 0) return {nullptr, c10::kCPU};
    auto bytes = allocate_host(size);
    void* address = bytes.get();
    Block block;
    block.size = size;
    block.bytes = std::move(bytes);
    blocks_.add(address, std::move(block));
    in_use_ += static_cast<std::int64_t>(size);
    return {address, address, &PinnedMemory::release, c10::kCPU};
  }
  void copy_data(void* to, const void* from, std::size_t count) const override {
    default_copy_data(to, from, count);
  }
  Blocks& blocks() { return blocks_; }
  bool contains(const void* pointer) {
    const DeviceLock lock(device_mutex());
    return blocks_.find(pointer) != nullptr;
  }
  bool record_event(void*, void*, c10::Stream) override { return true; }
  void empty_cache() override {
    const DeviceLock lock(device_mutex());
    cached_ = 0;
  }
  at::HostStats get_stats() override { return {}; }
  void reset_accumulated_stats() override {}
  void reset_peak_stats() override {}
  std::int64_t in_use() const { return in_use_; }
  std::int64_t cached() const { return cached_; }

 private:
  static void release(void* address);

  Blocks blocks_;
  std::int64_t in_use_ = 0, cached_ = 0;
};

inline PinnedMemory& pinned_memory() {
  static auto* instance = new PinnedMemory;
  return *instance;
}

inline void PinnedMemory::release(void* address) {
  const DeviceLock lock(device_mutex());
  auto& m = pinned_memory();
  const auto size = static_cast<std::int64_t>(m.blocks_.take(address).size);
  m.in_use_ -= size;
  m.cached_ += size;
}

}  // namespace steadyflux::testing
