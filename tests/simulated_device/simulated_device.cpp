#include "simulated_device/simulated_device.h"

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/SDPBackend.h>
#include <ATen/core/GraphImplInterface.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <cstddef>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "simulated_device/device_memory.h"
#include "simulated_device/recording.h"
#include "simulated_device/streams.h"

namespace steadyflux::testing {
namespace {

c10::Stream to_stream(StreamNumber number) {
  return c10::Stream(c10::Stream::UNSAFE, kDevice, number);
}

struct Guard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::PrivateUse1> {
  c10::Device exchangeDevice(c10::Device) const override { return kDevice; }
  c10::Device getDevice() const override { return kDevice; }
  c10::Stream getStream(c10::Device) const noexcept override { return to_stream(current_stream()); }
  c10::Stream getDefaultStream(c10::Device) const override { return to_stream(0); }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
    return getNewStream(device, 0);
  }
  c10::Stream getNewStream(c10::Device, int) const override {
    const DeviceLock lock(device_mutex());
    return to_stream(streams().add());
  }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override {
    return to_stream(std::exchange(current_stream(), stream.id()));
  }

  void record(void** event, const c10::Stream& stream, const c10::DeviceIndex,
              const c10::EventFlag) const override {
    const DeviceLock lock(device_mutex());
    if (*event == nullptr) *event = new Streams::Event;
    state(*event) = streams().record(stream.id());
  }
  void block(void* event, const c10::Stream& stream) const override {
    const DeviceLock lock(device_mutex());
    if (event != nullptr) streams().wait(stream.id(), state(event));
  }
  bool queryEvent(void* event) const override {
    const DeviceLock lock(device_mutex());
    return event == nullptr || streams().query(state(event));
  }
  void synchronizeEvent(void* event) const override {
    Recording::refuse_while_recording("synchronizeEvent");
    const DeviceLock lock(device_mutex());
    if (event != nullptr) streams().finish(state(event));
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override {
    delete static_cast<Streams::Event*>(event);
  }
  bool queryStream(const c10::Stream& stream) const override {
    const DeviceLock lock(device_mutex());
    return streams().query(streams().record(stream.id()));
  }
  void synchronizeStream(const c10::Stream& stream) const override {
    Recording::refuse_while_recording("synchronizeStream");
    const DeviceLock lock(device_mutex());
    streams().finish(stream.id());
  }
  void synchronizeDevice(const c10::DeviceIndex) const override {
    Recording::refuse_while_recording("synchronizeDevice");
    const DeviceLock lock(device_mutex());
    streams().finish_all();
  }
  void recordDataPtrOnStream(const c10::DataPtr& data, const c10::Stream& stream) const override {
    memory().recordStream(data, stream);
  }

 private:
  static Streams::Event& state(void* event) { return *static_cast<Streams::Event*>(event); }
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

// --- Operations ---

// The tensor's bytes as a CPU tensor of the same sizes and strides, which keeps them.
at::Tensor host_view(const at::Tensor& tensor, Blocks& blocks) {
  if (tensor.numel() == 0) return at::empty(tensor.sizes(), tensor.scalar_type());
  const auto bytes = blocks.bytes_at(tensor.const_data_ptr());
  return at::from_blob(
      bytes.get(), tensor.sizes(), tensor.strides(), [bytes](void*) {},
      at::TensorOptions().dtype(tensor.scalar_type()));
}

// One operation on the current stream; none, as far as streams know, while a graph is recorded.
// Views are taken under the lock, computing is done without.
class Operation {
 public:
  enum class When { kNow, kLate };

  explicit Operation(std::string name, When when = When::kNow)
      : name_(std::move(name)), stream_(current_stream()) {
    if (recorded_) return;
    const DeviceLock lock(device_mutex());
    number_ = when == When::kNow ? streams().start(stream_) : streams().start_late(stream_);
  }

  at::Tensor reads(const at::Tensor& tensor) const {
    if (!tensor.defined() || tensor.device().is_cpu()) return tensor;
    const DeviceLock lock(device_mutex());
    auto* block = memory().blocks().find(tensor.const_data_ptr());
    if (block != nullptr && !recorded_) {
      streams().read(block->uses, stream_, number_, name_);
    }
    return host_view(tensor, memory().blocks());
  }
  at::Tensor writes(const at::Tensor& tensor) const {
    if (!tensor.defined() || tensor.device().is_cpu()) return tensor;
    const DeviceLock lock(device_mutex());
    auto* block = memory().blocks().find(tensor.const_data_ptr());
    if (block != nullptr && !recorded_) {
      streams().write(block->uses, stream_, number_, name_);
    }
    return host_view(tensor, memory().blocks());
  }
  std::optional<at::Tensor> reads(const std::optional<at::Tensor>& tensor) const {
    if (!tensor) return tensor;
    return reads(*tensor);
  }

  // Host views of results, while a graph is recorded: into `results`, for what comes now and in
  // every replay. NaN until then.
  void is_recorded(const std::vector<at::Tensor>& results,
                   const std::function<std::vector<at::Tensor>()>& compute) const {
    auto* recording = Recording::current();
    if (recording == nullptr) return;
    std::vector<at::Tensor> views;
    for (const auto& result : results) {
      views.push_back(writes(result));
      if (views.back().defined() && views.back().is_floating_point()) {
        views.back().fill_(std::numeric_limits<double>::quiet_NaN());
      }
    }
    recording->add(
        [views, compute] {
          const auto computed = compute();
          for (std::size_t i = 0; i < views.size(); ++i) {
            if (views[i].defined()) views[i].copy_(computed[i]);
          }
        },
        results);
  }

  // A result on the device, with the same strides.
  at::Tensor result(const at::Tensor& computed) const {
    if (!computed.defined()) return computed;
    const auto source = computed.is_non_overlapping_and_dense() ? computed : computed.contiguous();
    const DeviceLock lock(device_mutex());
    const at::Tensor out = at::detail::empty_strided_generic(
        source.sizes(), source.strides(), &memory(),
        c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), source.scalar_type());
    writes(out).copy_(source);
    return out;
  }

  StreamNumber stream() const { return stream_; }

 private:
  std::string name_;
  StreamNumber stream_;
  std::int64_t number_ = 0;
  bool recorded_ = Recording::current() != nullptr;
};

// --- Kernels: what only the device itself can do; the fallback does all else with these. ---

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

// Between devices, all under the lock. The host waits for a copy that is not asked to be late.
at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  const auto& host = from.device().is_cpu() ? from : to;
  const bool on_device = !host.device().is_cpu();
  if (!on_device) Recording::refuse_while_recording("a copy between host and device");
  const DeviceLock lock(device_mutex());
  if (non_blocking && !on_device && host.is_pinned()) {
    const Operation operation("copy", Operation::When::kLate);
    const auto pinned = host_view(host, pinned_memory().blocks());
    auto source = host.is_same(from) ? pinned : operation.reads(from);
    auto target = host.is_same(from) ? operation.writes(to) : pinned;
    streams().defer(operation.stream(), [source, target] { target.copy_(source); });
    return to;
  }
  const Operation operation("copy");
  const auto source = operation.reads(from), target = operation.writes(to);
  target.copy_(source);
  operation.is_recorded({}, [source, target] {
    target.copy_(source);
    return std::vector<at::Tensor>();
  });
  if (!on_device && !(non_blocking && from.device().is_cpu())) {
    streams().finish(operation.stream());
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
    const Operation operation("resize_");
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

void record_stream(at::Tensor& self, c10::Stream stream) {
  memory().recordStream(self.storage().data_ptr(), stream);
}

at::Tensor convolution(const at::Tensor& input, const at::Tensor& weight,
                       const std::optional<at::Tensor>& bias, c10::IntArrayRef stride,
                       c10::IntArrayRef padding, c10::IntArrayRef dilation, bool transposed,
                       c10::IntArrayRef output_padding, std::int64_t groups) {
  TORCH_CHECK(weight.device() == input.device() &&
                  (!bias || !bias->defined() || bias->device() == input.device()),
              "convolution: input and weights are on different devices");
  Recording::refuse_while_recording("convolution");
  const Operation operation("convolution");
  return operation.result(at::convolution(operation.reads(input), operation.reads(weight),
                                          operation.reads(bias), stride, padding, dilation,
                                          transposed, output_padding, groups));
}

// Attention without the matrix of scores, with or without a mask, for heads of any width, as
// libtorch has it for CUDA. What the CPU's kernel takes besides its result is not the device's.
std::int64_t attention_choice(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                              const std::optional<at::Tensor>&, double, bool, std::optional<double>,
                              bool) {
  return static_cast<std::int64_t>(at::SDPBackend::overrideable);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, c10::SymInt, c10::SymInt, at::Tensor,
           at::Tensor, at::Tensor>
attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
          const std::optional<at::Tensor>& attn_bias, double dropout_p, bool is_causal,
          bool /*return_debug_mask*/, std::optional<double> scale) {
  for (const auto& tensor : {key, value, attn_bias.value_or(at::Tensor())}) {
    TORCH_CHECK(!tensor.defined() || tensor.device() == query.device(),
                "scaled_dot_product_attention: tensors are on different devices");
  }
  const Operation operation("scaled_dot_product_attention");
  const auto compute = [q = operation.reads(query), k = operation.reads(key),
                        v = operation.reads(value), bias = operation.reads(attn_bias), dropout_p,
                        is_causal, scale] {
    return std::vector{
        at::scaled_dot_product_attention(q, k, v, bias, dropout_p, is_causal, scale)};
  };
  auto out = operation.result(compute().front());
  operation.is_recorded({out}, compute);
  return {std::move(out), {}, {}, {}, query.size(2), key.size(2), {}, {}, {}};
}

// --- All other operations ---

void check_device(const at::Tensor& tensor, const c10::OperatorHandle& op) {
  // As on CUDA, a single number may come from the CPU.
  TORCH_CHECK(!tensor.defined() || tensor.device() == kDevice || tensor.dim() == 0,
              op.schema().name(), ": an argument of shape ", tensor.sizes(), " is on ",
              tensor.device(), ", others are on ", kDevice);
}

bool is_written(const c10::Argument& argument) {
  return argument.alias_info() != nullptr && argument.alias_info()->isWrite();
}

// The CPU's kernel on host views of the arguments, so that strides are what they are on the CPU.
void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto& arguments = schema.arguments();
  const auto given = torch::jit::last(*stack, arguments.size());
  bool grows = false;  // writes to a tensor that it may make larger
  for (std::size_t i = 0; i < given.size(); ++i) {
    if (given[i].isTensor()) {
      const auto& tensor = given[i].toTensor();
      check_device(tensor, op);
      grows |= is_written(arguments[i]) && tensor.defined() && tensor.numel() == 0;
    } else if (given[i].isTensorList()) {
      for (const at::Tensor& tensor : given[i].toTensorList()) check_device(tensor, op);
    } else if (given[i].isOptionalTensorList()) {
      for (const std::optional<at::Tensor>& tensor : given[i].toOptionalTensorVector()) {
        if (tensor) check_device(*tensor, op);
      }
    }
  }
  if (grows) {
    Recording::refuse_while_recording(schema.name());
    at::native::cpu_fallback(op, stack, /*error_on_views=*/true);
    return;
  }

  const std::vector<c10::IValue> originals(given.begin(), given.end());
  const Operation operation(schema.name());
  const auto first = stack->size() - arguments.size();
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    auto& slot = (*stack)[first + i];
    const bool written = is_written(arguments[i]);
    const auto view = [&](const at::Tensor& tensor) {
      return written ? operation.writes(tensor) : operation.reads(tensor);
    };
    if (slot.isTensor()) {
      slot = view(slot.toTensor());
    } else if (slot.isTensorList()) {
      c10::List<at::Tensor> views;
      for (const at::Tensor& tensor : originals[i].toTensorList()) views.push_back(view(tensor));
      slot = views;
    } else if (slot.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> views;
      for (const std::optional<at::Tensor>& tensor : originals[i].toOptionalTensorVector()) {
        views.push_back(tensor ? std::optional<at::Tensor>(view(*tensor)) : std::nullopt);
      }
      slot = views;
    } else if (slot.isDevice()) {
      slot = c10::Device(c10::kCPU);
    }
  }
  const std::vector<c10::IValue> views(stack->begin() + static_cast<std::ptrdiff_t>(first),
                                       stack->end());
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);

  const auto& returns = schema.returns();
  const auto first_return = stack->size() - returns.size();
  for (std::size_t i = 0; i < returns.size(); ++i) {
    auto& slot = (*stack)[first_return + i];
    if (const auto* alias = returns[i].alias_info()) {
      TORCH_CHECK(alias->isWrite(), schema.name(), " gives a view, which the device cannot");
      for (std::size_t j = 0; j < arguments.size(); ++j) {
        const auto* of = arguments[j].alias_info();
        if (of != nullptr && of->beforeSets() == alias->beforeSets()) slot = originals[j];
      }
    } else if (slot.isTensor()) {
      slot = operation.result(slot.toTensor());
    } else if (slot.isTensorList()) {
      c10::List<at::Tensor> results;
      for (const at::Tensor& tensor : slot.toTensorList()) {
        results.push_back(operation.result(tensor));
      }
      slot = results;
    }
  }
  std::vector<at::Tensor> results;  // not those that arguments are
  for (std::size_t i = 0; i < returns.size(); ++i) {
    const auto& slot = (*stack)[first_return + i];
    const bool is_new = returns[i].alias_info() == nullptr && slot.isTensor();
    results.push_back(is_new ? slot.toTensor() : at::Tensor());
    if (slot.isTensorList()) Recording::refuse_while_recording(schema.name());
  }
  operation.is_recorded(results, [op, views, count = returns.size()] {
    torch::jit::Stack replayed(views);
    op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &replayed);
    std::vector<at::Tensor> computed;
    for (const auto& value : torch::jit::last(replayed, count)) {
      computed.push_back(value.isTensor() ? value.toTensor() : at::Tensor());
    }
    return computed;
  });
}

// at::accelerator::Graph of this device.
struct Graph final : at::GraphImplInterface {
  explicit Graph(const at::GraphImplArgs&) {}
  ~Graph() override {
    if (Recording::current() == &recording_) Recording::current() = nullptr;
  }
  void capture_begin(at::MempoolId_t, at::GraphCaptureMode) override {
    TORCH_CHECK(current_stream() != 0, "a graph cannot be recorded on the default stream");
    TORCH_CHECK(Recording::current() == nullptr, "a graph is being recorded already");
    Recording::current() = &recording_;
  }
  void capture_end() override { Recording::current() = nullptr; }
  void instantiate() override {}
  void replay() override {
    const Operation operation("graph");
    for (const auto& tensor : recording_.tensors()) operation.writes(tensor);
    recording_.replay();
    ++graph_replays();
  }
  void reset() override { recording_ = {}; }
  at::MempoolId_t pool() const override { return {0, 0}; }
  void enable_debug_mode() override {}
  void debug_dump(const std::string&) override {}

  static std::atomic<std::int64_t>& graph_replays() {
    static std::atomic<std::int64_t> count{0};
    return count;
  }

 private:
  Recording recording_;
};

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
  m.impl("record_stream", &record_stream);
  m.impl("_local_scalar_dense", &local_scalar_dense);
  m.impl("convolution_overrideable", &convolution);
  m.impl("_scaled_dot_product_fused_attention_overrideable", &attention);
  // One kernel on CUDA; libtorch would put them together from several otherwise.
  for (const char* name : {"native_layer_norm", "native_group_norm"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&fallback>());
  }
}

}  // namespace
}  // namespace steadyflux::testing

namespace at::native {
REGISTER_PRIVATEUSE1_DISPATCH(_fused_sdp_choice_stub, &steadyflux::testing::attention_choice)
}

namespace at {
REGISTER_GRAPH_IMPL(SIMULATED, steadyflux::testing::Graph)
}

namespace steadyflux::testing {
namespace {

const bool kRegistered = [] {
  c10::register_privateuse1_backend("simulated");
  c10::SetAllocator(c10::DeviceType::PrivateUse1, &memory());
  at::RegisterPrivateUse1HooksInterface(new Hooks);
  return true;
}();

// What `get` gives, under the lock.
template <typename Get>
auto locked(Get get) {
  const DeviceLock lock(device_mutex());
  return get();
}

}  // namespace

c10::Device simulated_device() {
  TORCH_CHECK(kRegistered);
  return kDevice;
}

void set_device_limit(std::int64_t bytes) {
  locked([&] { memory().set_limit(bytes); });
}
void fail_at_allocation(std::int64_t n) {
  locked([&] { memory().fail(n, 0); });
}
void fail_from_allocation(std::int64_t n) {
  locked([&] { memory().fail(0, n); });
}
std::int64_t device_allocations() {
  return locked([] { return memory().allocations(); });
}
std::int64_t device_bytes() { return memory().getDeviceStats(0).allocated_bytes[0].current; }
std::int64_t largest_device_allocation() {
  return locked([] { return memory().largest(); });
}
std::int64_t pinned_bytes_in_use() {
  return locked([] { return pinned_memory().in_use(); });
}
std::int64_t pinned_bytes_cached() {
  return locked([] { return pinned_memory().cached(); });
}
std::int64_t graph_replays() { return Graph::graph_replays(); }
void set_race_checks(bool on) {
  locked([&] { streams().set_checks(on); });
}

}  // namespace steadyflux::testing
