#include "simulated_device/simulated_device.h"

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <sys/mman.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <new>

namespace steadyflux::testing {
namespace {

const c10::Device kDevice(c10::DeviceType::PrivateUse1, 0);
constexpr std::size_t kAlignment = 64;

struct FreeAligned {
  void operator()(std::byte* p) const { ::operator delete (p, std::align_val_t{kAlignment}); }
};
using HostBytes = std::unique_ptr<std::byte, FreeAligned>;

HostBytes allocate_host(std::size_t size) {
  return HostBytes(static_cast<std::byte*>(
      ::operator new (std::max<std::size_t>(size, 1), std::align_val_t{kAlignment})));
}

// The device's memory. A block's address is a stretch of address space nobody may touch; its bytes
// lie elsewhere, and only the kernels below know where.
class Memory : public c10::DeviceAllocator {
 public:
  c10::DataPtr allocate(std::size_t size) override {
    if (size == 0) return {nullptr, kDevice};
    const auto bytes = static_cast<std::int64_t>(size);
    ++allocations_;
    const bool chosen = fail_at_ != 0 && allocations_ == fail_at_;
    if (chosen || stats().current + bytes > limit_) {
      TORCH_CHECK_WITH(OutOfMemoryError, false,
                       "simulated device out of memory: tried to allocate ", size, " bytes; ",
                       limit_ - stats().current, " of ", limit_, " are free");
    }
    void* address =
        mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED) throw std::bad_alloc();
    blocks_[reinterpret_cast<std::uintptr_t>(address)] = {size, allocate_host(size)};
    stats().increase(size);
    cached_ = std::clamp(cached_ - bytes, std::int64_t{0}, limit_ - stats().current);
    update_reserved();
    return {address, address, &Memory::release, kDevice};
  }

  void copy_data(void* to, const void* from, std::size_t count) const override {
    std::memcpy(bytes_at(to), bytes_at(from), count);
  }

  // Where the bytes of a device address are.
  std::byte* bytes_at(const void* pointer) const {
    const auto address = reinterpret_cast<std::uintptr_t>(pointer);
    auto it = blocks_.upper_bound(address);
    TORCH_CHECK(it != blocks_.begin(), "not an address of the simulated device");
    --it;
    TORCH_CHECK(address < it->first + it->second.size, "not an address of the simulated device");
    return it->second.bytes.get() + (address - it->first);
  }

  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {
    cached_ = 0;
    update_reserved();
  }
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex) override;
  void resetAccumulatedStats(c10::DeviceIndex) override {
    stats().reset_accumulated();
    reserved().reset_accumulated();
  }
  void resetPeakStats(c10::DeviceIndex) override;
  std::pair<std::size_t, std::size_t> getMemoryInfo(c10::DeviceIndex) override {
    return {static_cast<std::size_t>(limit_ - reserved().current),
            static_cast<std::size_t>(limit_)};
  }

  void set_limit(std::int64_t bytes) { limit_ = bytes; }
  void fail_at(std::int64_t n) {
    fail_at_ = n;
    allocations_ = 0;
  }
  std::int64_t allocations() const { return allocations_; }

 private:
  struct Block {
    std::size_t size;
    HostBytes bytes;
  };

  static void release(void* address);

  c10::CachingAllocator::Stat& stats() { return stats_.allocated_bytes[0]; }
  c10::CachingAllocator::Stat& reserved() { return stats_.reserved_bytes[0]; }
  // Freed memory stays reserved until the cache is emptied.
  void update_reserved() {
    auto& r = reserved();
    const auto now = stats().current + cached_;
    if (now > r.current) r.increase(static_cast<std::size_t>(now - r.current));
    if (now < r.current) r.decrease(static_cast<std::size_t>(r.current - now));
  }

  std::map<std::uintptr_t, Block> blocks_;
  c10::CachingDeviceAllocator::DeviceStats stats_;
  std::int64_t cached_ = 0;
  std::int64_t limit_ = kNoLimit;
  std::int64_t fail_at_ = 0;
  std::int64_t allocations_ = 0;
};

// libtorch's registries are global and outlive everything, so is what is registered.
Memory& memory() {
  static auto* instance = new Memory;
  return *instance;
}

void Memory::release(void* address) {
  auto& m = memory();
  const auto it = m.blocks_.find(reinterpret_cast<std::uintptr_t>(address));
  const auto size = it->second.size;
  munmap(address, size);
  m.blocks_.erase(it);
  m.stats().decrease(size);
  m.cached_ += static_cast<std::int64_t>(size);
  m.update_reserved();
}

// Pinned host memory, kept for reuse as a whole: `cached` counts, the bytes themselves are freed.
class PinnedMemory : public at::HostAllocator {
 public:
  c10::DataPtr allocate(std::size_t size) override {
    if (size == 0) return {nullptr, c10::kCPU};
    auto bytes = allocate_host(size);
    void* address = bytes.get();
    blocks_[reinterpret_cast<std::uintptr_t>(address)] = {size, std::move(bytes)};
    in_use_ += static_cast<std::int64_t>(size);
    return {address, address, &PinnedMemory::release, c10::kCPU};
  }
  void copy_data(void* to, const void* from, std::size_t count) const override {
    default_copy_data(to, from, count);
  }
  bool contains(const void* pointer) const {
    const auto address = reinterpret_cast<std::uintptr_t>(pointer);
    auto it = blocks_.upper_bound(address);
    return it != blocks_.begin() && (--it, address < it->first + it->second.first);
  }
  bool record_event(void*, void*, c10::Stream) override { return true; }
  void empty_cache() override { cached_ = 0; }
  at::HostStats get_stats() override { return {}; }
  void reset_accumulated_stats() override {}
  void reset_peak_stats() override {}
  std::int64_t in_use() const { return in_use_; }
  std::int64_t cached() const { return cached_; }

 private:
  static void release(void* address);

  std::map<std::uintptr_t, std::pair<std::size_t, HostBytes>> blocks_;
  std::int64_t in_use_ = 0, cached_ = 0;
};

PinnedMemory& pinned_memory() {
  static auto* instance = new PinnedMemory;
  return *instance;
}

void PinnedMemory::release(void* address) {
  auto& m = pinned_memory();
  const auto it = m.blocks_.find(reinterpret_cast<std::uintptr_t>(address));
  m.in_use_ -= static_cast<std::int64_t>(it->second.first);
  m.cached_ += static_cast<std::int64_t>(it->second.first);
  m.blocks_.erase(it);
}

// The tensor's bytes as a CPU tensor of the same sizes and strides.
at::Tensor host_view(const at::Tensor& tensor) {
  if (tensor.device().is_cpu()) return tensor;
  if (tensor.numel() == 0) return at::empty(tensor.sizes(), tensor.scalar_type());
  return at::from_blob(memory().bytes_at(tensor.const_data_ptr()), tensor.sizes(), tensor.strides(),
                       tensor.options().device(c10::kCPU));
}

// Copies that were asked for without blocking, oldest first.
class Queue {
 public:
  void push(at::Tensor from, at::Tensor to) {
    copies_.push_back({std::move(from), std::move(to)});
    ++queued_;
  }
  std::int64_t queued() const { return queued_; }
  bool done(std::int64_t number) const { return done_ >= number; }
  // Carries out the first `number` copies ever queued.
  void run_until(std::int64_t number) {
    while (done_ < number) {
      const auto copy = std::move(copies_.front());
      copies_.pop_front();
      ++done_;
      host_view(copy.to).copy_(host_view(copy.from));
    }
  }
  void run() { run_until(queued_); }

 private:
  struct Copy {
    at::Tensor from, to;
  };
  std::deque<Copy> copies_;
  std::int64_t queued_ = 0, done_ = 0;
};

Queue& queue() {
  static auto* instance = new Queue;
  return *instance;
}

c10::CachingDeviceAllocator::DeviceStats Memory::getDeviceStats(c10::DeviceIndex) {
  queue().run();  // a queued copy holds its tensors
  return stats_;
}

void Memory::resetPeakStats(c10::DeviceIndex) {
  queue().run();
  stats().reset_peak();
  reserved().reset_peak();
}

// An event is the number of copies queued when it was recorded.
struct Guard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::PrivateUse1> {
  c10::Device exchangeDevice(c10::Device) const override { return kDevice; }
  c10::Device getDevice() const override { return kDevice; }
  c10::Stream getStream(c10::Device) const noexcept override { return stream(); }
  c10::Stream getNewStream(c10::Device, int) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return stream(); }
  void record(void** event, const c10::Stream&, const c10::DeviceIndex,
              const c10::EventFlag) const override {
    if (*event == nullptr) *event = new std::int64_t;
    number(*event) = queue().queued();
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void* event) const override { return queue().done(number(event)); }
  void synchronizeEvent(void* event) const override { queue().run_until(number(event)); }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override {
    delete static_cast<std::int64_t*>(event);
  }
  bool queryStream(const c10::Stream&) const override { return queue().done(queue().queued()); }
  void synchronizeStream(const c10::Stream&) const override { queue().run(); }
  void synchronizeDevice(const c10::DeviceIndex) const override { queue().run(); }

 private:
  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, kDevice); }
  static std::int64_t& number(void* event) { return *static_cast<std::int64_t*>(event); }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  at::Device getDeviceFromPtr(void*) const override { return kDevice; }
  bool isPinnedPtr(const void* data) const override { return pinned_memory().contains(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_memory(); }
};

// --- Kernels: what only the device itself can do; cpu_fallback does all else with these. ---

const c10::DispatchKeySet kKeys(c10::DispatchKey::PrivateUse1);

at::Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype,
                 std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>,
                 std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory(), kKeys, dtype.value_or(at::kFloat), format);
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride,
                         std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                         std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory(), kKeys,
                                           dtype.value_or(at::kFloat));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  const bool late = non_blocking && from.device().is_cpu() && from.is_pinned();
  if (late) {
    queue().push(from, to);
  } else {
    queue().run();
    host_view(to).copy_(host_view(from));
  }
  return to;
}

const at::Tensor& resize_(const at::Tensor& self, c10::IntArrayRef size,
                          std::optional<at::MemoryFormat> format) {
  TORCH_CHECK(!format || *format == at::MemoryFormat::Contiguous, "resize_: contiguous only");
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(size);
  const auto needed =
      static_cast<std::size_t>(impl->numel() + impl->storage_offset()) * impl->itemsize();
  const auto& storage = impl->unsafe_storage();
  if (needed > storage.nbytes()) {
    queue().run();
    auto grown = memory().allocate(needed);
    if (storage.nbytes() > 0) memory().copy_data(grown.get(), storage.data(), storage.nbytes());
    storage.set_data_ptr(std::move(grown));
    storage.set_nbytes(needed);
  }
  return self;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  if (from.sizes() != to.sizes()) resize_(to, from.sizes(), std::nullopt);
  return copy_from(from, to, /*non_blocking=*/false);
}

at::Scalar local_scalar_dense(const at::Tensor& self) {
  return at::_local_scalar_dense(self.to(c10::kCPU));
}

at::Tensor convolution(const at::Tensor& input, const at::Tensor& weight,
                       const std::optional<at::Tensor>& bias, c10::IntArrayRef stride,
                       c10::IntArrayRef padding, c10::IntArrayRef dilation, bool transposed,
                       c10::IntArrayRef output_padding, std::int64_t groups) {
  TORCH_CHECK(weight.device() == input.device() && (!bias || bias->device() == input.device()),
              "convolution: input and weights are on different devices");
  std::optional<at::Tensor> host_bias;
  if (bias && bias->defined()) host_bias = bias->cpu();
  return at::convolution(input.cpu(), weight.cpu(), host_bias, stride, padding, dilation,
                         transposed, output_padding, groups)
      .to(input.device());
}

void check_device(const at::Tensor& tensor, const c10::OperatorHandle& op) {
  // As on CUDA, a single number may come from the CPU.
  TORCH_CHECK(!tensor.defined() || tensor.device() == kDevice || tensor.dim() == 0,
              op.schema().name(), ": an argument of shape ", tensor.sizes(), " is on ",
              tensor.device(), ", others are on ", kDevice);
}

// cpu_fallback alone would take arguments from anywhere.
void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  for (const auto& argument : torch::jit::last(*stack, op.schema().arguments().size())) {
    if (argument.isTensor()) check_device(argument.toTensor(), op);
    if (argument.isTensorList()) {
      for (const at::Tensor& tensor : argument.toTensorList()) check_device(tensor, op);
    }
    if (argument.isOptionalTensorList()) {
      for (const std::optional<at::Tensor>& tensor : argument.toOptionalTensorVector()) {
        if (tensor) check_device(*tensor, op);
      }
    }
  }
  at::native::cpu_fallback(op, stack, /*error_on_views=*/true);
}

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)
REGISTER_HOST_ALLOCATOR(at::kPrivateUse1, &pinned_memory())

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("resize_", &resize_);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("view", &at::native::view);
  m.impl("unfold", &at::native::unfold);
  m.impl("_local_scalar_dense", &local_scalar_dense);
  m.impl("convolution_overrideable", &convolution);
}

const bool kRegistered = [] {
  c10::register_privateuse1_backend("simulated");
  c10::SetAllocator(c10::DeviceType::PrivateUse1, &memory());
  at::RegisterPrivateUse1HooksInterface(new Hooks);
  return true;
}();

}  // namespace

c10::Device simulated_device() {
  TORCH_CHECK(kRegistered);
  return kDevice;
}

void set_device_limit(std::int64_t bytes) { memory().set_limit(bytes); }
void fail_at_allocation(std::int64_t n) { memory().fail_at(n); }
std::int64_t device_allocations() { return memory().allocations(); }
std::int64_t device_bytes() { return memory().getDeviceStats(0).allocated_bytes[0].current; }
std::int64_t pinned_bytes_in_use() { return pinned_memory().in_use(); }
std::int64_t pinned_bytes_cached() { return pinned_memory().cached(); }

}  // namespace steadyflux::testing
