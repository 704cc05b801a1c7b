#include "residency/streamed_weights.h"

#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <c10/core/Event.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "base/quiet_thread.h"
#include "config/transfer_sizes.h"
#include "nn/allocate_aligned.h"
#include "nn/convert_values.h"
#include "nn/pinned_copy.h"
#include "residency/unit_layout.h"
#include "steadyflux/error.h"
#include "weights/read_ahead.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kPage = UncachedFile::kAlignment;
constexpr std::int64_t kChunk = kFileChunkBytes;
constexpr std::size_t kReadAhead = 2;  // units of a mapped file that the kernel is told about

struct Stopped {};  // thrown in the loading thread when its work is not wanted any more

void unit_will_be_needed(const UnitLayout& layout) {
  for (const auto& tensor : layout.tensors) {
    for (const auto& piece : tensor.pieces) will_need({piece.view.data, piece.view.nbytes});
  }
}

}  // namespace

struct StreamedWeights::State {
  struct Buffer {
    explicit Buffer(c10::DeviceType type) : filled(type), used(type) {}
    at::Tensor bytes;
    UnitLayout::Branches branches;  // of what is in it now
    bool taken = false;             // by the loader or a lease
    c10::Event filled;              // on a device: the copy into it has ended
    c10::Event used;                // on a device: what computed with it has ended
  };

  // What the loading thread has made of a unit in the present pass. At most one of them is set.
  struct Ready {
    Buffer* buffer = nullptr;
    bool resident = false;
  };

  c10::Device device = c10::Device(c10::kCPU);
  WeightsPlan plan;
  const LoraLayers* loras = nullptr;
  std::vector<UnitLayout> layouts;
  std::map<const MappedFile*, std::shared_ptr<const UncachedFile>> files;
  std::vector<at::Tensor> residents;  // one per unit; undefined where it is not resident
  std::vector<UnitLayout::Branches> resident_branches;
  std::vector<bool> loaded;       // the resident has its values
  std::vector<bool> in_place;     // the resident is bound
  std::vector<at::Tensor> hosts;  // likewise, in pinned RAM
  std::vector<bool> host_loaded;
  std::vector<Buffer*> leased;  // the buffer of the unit that is leased
  std::vector<std::unique_ptr<Buffer>> buffers;
  at::Tensor chunk;  // the file's bytes on their way through a conversion
  std::optional<PinnedCopier> copier;
  std::optional<c10::Stream> transfer_stream;
  std::optional<c10::Event> begin;  // on the computing stream: the buffers are ours from here on
  std::atomic<std::int64_t> bytes_read{0};
  bool first_mapped_pass = true;

  std::mutex mutex;  // guards what follows, Buffer::taken and the events of untaken buffers
  std::condition_variable wake;
  bool stop = false;
  std::exception_ptr error;
  std::vector<Ready> ready;
  // Of the pass that is computed: whether it goes on behind the units that all passes want.
  enum class Rest : std::uint8_t { kUnknown, kWanted, kLeftOut };
  Rest rest = Rest::kUnknown;
  std::thread thread;

  ~State() { stop_thread(); }

  bool on_device() const { return !device.is_cpu(); }

  void stop_thread() noexcept {
    {
      const std::lock_guard lock(mutex);
      stop = true;
    }
    wake.notify_all();
    if (thread.joinable()) thread.join();
  }

  at::Tensor allocate(std::int64_t bytes) const {
    if (!on_device()) return allocate_aligned(bytes);
    return at::empty({bytes}, at::TensorOptions().dtype(at::kByte).device(device));
  }

  // What the plan wants in place, allocated; what it does not, given back.
  void prepare(const WeightsPlan& new_plan) {
    plan = new_plan;
    const auto count = layouts.size();
    residents.resize(count);
    resident_branches.resize(count);
    hosts.resize(count);
    loaded.resize(count, false);
    in_place.resize(count, false);
    host_loaded.resize(count, false);
    leased.assign(count, nullptr);
    ready.assign(count, {});
    buffers.clear();
    for (std::size_t i = 0; i < count; ++i) {
      if (plan.places[i] != UnitPlace::kResident && residents[i].defined()) {
        layouts[i].unbind();
        residents[i].reset();
        resident_branches[i].clear();
        loaded[i] = in_place[i] = false;
      }
      if (plan.places[i] != UnitPlace::kHost) {
        hosts[i].reset();
        host_loaded[i] = false;
      }
    }
    if (on_device()) at::accelerator::emptyCache();
    std::int64_t largest = 0;
    for (std::size_t i = 0; i < count; ++i) {
      if (plan.places[i] != UnitPlace::kResident) largest = std::max(largest, layouts[i].bytes);
    }
    for (std::int64_t i = 0; i < plan.buffers && largest > 0; ++i) {
      buffers.push_back(std::make_unique<Buffer>(device.type()));
      buffers.back()->bytes = allocate(largest);
    }
    for (std::size_t i = 0; i < count; ++i) {
      if (plan.places[i] == UnitPlace::kResident && !residents[i].defined()) {
        residents[i] = allocate(layouts[i].bytes);
      } else if (plan.places[i] == UnitPlace::kHost && !hosts[i].defined()) {
        hosts[i] =
            at::empty({layouts[i].bytes}, at::TensorOptions().dtype(at::kByte).pinned_memory(true));
      }
    }
  }

  // Reading ahead of what may be left out would take a buffer that the next pass wants first.
  bool waits_for_rest() const {
    const auto first = plan.places.begin();
    return std::any_of(first, first + static_cast<std::ptrdiff_t>(plan.always),
                       [](UnitPlace place) { return place != UnitPlace::kResident; });
  }

  void tell(Rest what) {
    {
      const std::lock_guard lock(mutex);
      rest = what;
    }
    wake.notify_all();
  }

  void start_thread() {
    stop = false;
    rest = Rest::kUnknown;
    error = nullptr;
    if (on_device()) {
      if (!transfer_stream) {
        transfer_stream = c10::impl::VirtualGuardImpl(device.type()).getNewStream(device);
      }
      begin.emplace(device.type());
      begin->record(at::accelerator::getCurrentStream(device.index()));
    }
    thread = start_quiet_thread([this] { run(); });
  }

  // --- The loading thread --------------------------------------------------------------------

  void run() noexcept {
    const c10::InferenceMode inference_mode;  // for what the handlers below wait for as well
    try {
      std::optional<c10::StreamGuard> guard;
      if (on_device()) {
        guard.emplace(*transfer_stream);
        begin->block(*transfer_stream);
      }
      const bool waits = waits_for_rest();
      for (std::int64_t pass = 0; pass < plan.passes; ++pass) {
        for (std::size_t unit = 0; unit < layouts.size(); ++unit) {
          if (waits && unit == plan.always && !rest_is_wanted()) break;
          load(unit);
        }
      }
      if (on_device()) transfer_stream->synchronize();
      throw Error(ErrorKind::kInternal, "more passes over the weights than were planned");
    } catch (const Stopped&) {
      finish_copies();
    } catch (...) {
      finish_copies();
      const std::lock_guard lock(mutex);
      error = std::current_exception();
    }
    wake.notify_all();
  }

  // Nobody waits for what is under way, but the memory it goes to must not be given back before.
  void finish_copies() noexcept {
    try {
      if (on_device()) transfer_stream->synchronize();
    } catch (...) {  // a device in a bad way: whoever computes on it learns of it
    }
  }

  void load(std::size_t unit) {
    if (plan.places[unit] == UnitPlace::kResident) {
      if (loaded[unit]) return;
      resident_branches[unit] = fill(unit, residents[unit]);
      if (on_device()) transfer_stream->synchronize();  // once for each resident
      const std::lock_guard lock(mutex);
      loaded[unit] = true;
      ready[unit].resident = true;
      wake.notify_all();
      return;
    }
    Buffer* buffer = take_buffer(unit);
    if (on_device() && buffer->used.was_marked_for_recording()) {
      buffer->used.block(*transfer_stream);
    }
    buffer->branches = fill(unit, buffer->bytes);
    if (on_device()) buffer->filled.record(*transfer_stream);
    const std::lock_guard lock(mutex);
    ready[unit].buffer = buffer;
    wake.notify_all();
  }

  // Waits for a free buffer, and until the unit's last turn has been leased.
  Buffer* take_buffer(std::size_t unit) {
    std::unique_lock lock(mutex);
    while (true) {
      if (stop) throw Stopped();
      const auto free = std::find_if(buffers.begin(), buffers.end(),
                                     [](const auto& buffer) { return !buffer->taken; });
      if (free != buffers.end() && ready[unit].buffer == nullptr && leased[unit] == nullptr) {
        (*free)->taken = true;
        return free->get();
      }
      wake.wait(lock);
    }
  }

  // Once for each pass, when it is known.
  bool rest_is_wanted() {
    std::unique_lock lock(mutex);
    wake.wait(lock, [this] { return stop || rest != Rest::kUnknown; });
    if (stop) throw Stopped();
    return std::exchange(rest, Rest::kUnknown) == Rest::kWanted;
  }

  void throw_if_stopped() {
    const std::lock_guard lock(mutex);
    if (stop) throw Stopped();
  }

  UnitLayout::Branches fill(std::size_t unit, const at::Tensor& target) {
    const auto& layout = layouts[unit];
    bring_all(unit, target);
    if (loras == nullptr) return {};
    // Always here: a CPU would round otherwise than a device.
    layout.merge(target, *loras);
    return layout.make_branches(target, *loras);
  }

  void bring_all(std::size_t unit, const at::Tensor& target) {
    const auto& layout = layouts[unit];
    if (plan.places[unit] == UnitPlace::kHost) {
      if (!host_loaded[unit]) {
        bring(layout, [&](const UnitLayout::Piece& piece, std::int64_t first, const at::Tensor& x) {
          convert_values(x, place_of(piece, hosts[unit]).narrow(0, first, x.numel()));
        });
        host_loaded[unit] = true;
      }
      target.narrow(0, 0, layout.bytes).copy_(hosts[unit], /*non_blocking=*/true);
      return;
    }
    for (const auto& read : layout.reads) {
      read_file(*read.file, read.offset, read.size, read.needed,
                target.mutable_data_ptr<std::uint8_t>() + read.to);
    }
    bring(layout, [&](const UnitLayout::Piece& piece, std::int64_t first, const at::Tensor& x) {
      const auto to = place_of(piece, target).narrow(0, first, x.numel());
      if (on_device()) {
        copier->copy_into(to, x);
      } else {
        convert_values(x, to);
      }
    });
  }

  // A piece's values in a unit's buffer, flat.
  static at::Tensor place_of(const UnitLayout::Piece& piece, const at::Tensor& buffer) {
    return buffer.narrow(0, piece.offset, piece.bytes()).view(piece.dtype);
  }

  void read_file(const MappedFile& file, std::uint64_t offset, std::size_t size, std::size_t needed,
                 std::uint8_t* to) {
    for (std::size_t done = 0; done < needed; done += static_cast<std::size_t>(kChunk)) {
      throw_if_stopped();
      const auto step = std::min(size - done, static_cast<std::size_t>(kChunk));
      files.at(&file)->read(offset + done, step, std::min(step, needed - done),
                            reinterpret_cast<std::byte*>(to + done));
      bytes_read += static_cast<std::int64_t>(step);
    }
  }

  // sink(piece, first element, values): everything of a unit that no `reads` bring, chunk by chunk,
  // in the file's dtype or as bytes.
  template <typename Sink>
  void bring(const UnitLayout& layout, Sink sink) {
    for (const auto& tensor : layout.tensors) {
      if (tensor.made) {
        read_dense(tensor.stored, [&](std::int64_t first, const at::Tensor& values) {
          throw_if_stopped();
          sink(tensor.pieces.front(), first, values);
        });
        continue;
      }
      for (const auto& piece : tensor.pieces) {
        if (!piece.in_reads) bring_piece(piece, sink);
      }
    }
  }

  template <typename Sink>
  void bring_piece(const UnitLayout::Piece& piece, Sink sink) {
    const auto& view = piece.view;
    const auto dtype = piece.dtype == at::kByte ? at::kByte : weight_dtype(view);
    const auto element = static_cast<std::int64_t>(c10::elementSize(dtype));
    const auto start = static_cast<std::int64_t>(view.data - view.file->bytes().data());
    const auto bytes = static_cast<std::int64_t>(view.nbytes);
    for (std::int64_t done = 0; done < bytes; done += kChunk) {
      const auto step = std::min(kChunk, bytes - done);
      const auto first_page = (start + done) / kPage * kPage;
      const auto skip = start + done - first_page;
      const auto size = (skip + step + kPage - 1) / kPage * kPage;
      auto* data = chunk.mutable_data_ptr<std::uint8_t>();
      read_file(*view.file, static_cast<std::uint64_t>(first_page), static_cast<std::size_t>(size),
                static_cast<std::size_t>(skip + step), data);
      auto aligned_skip = skip;
      if (skip % element != 0) {  // values that lie across the grid
        std::memmove(data, data + skip, static_cast<std::size_t>(step));
        aligned_skip = 0;
      }
      sink(piece, done / element, chunk.narrow(0, aligned_skip, step).view(dtype));
    }
  }
};

StreamedWeights::StreamedWeights(const std::vector<WeightUnit>& units,
                                 const ComponentWeights& checkpoint, const LoadOptions& options_in,
                                 const WeightsPlan& plan)
    : state_(std::make_unique<State>()) {
  auto& s = *state_;
  LoadOptions options = options_in;
  options.complete = false;
  s.device = options.device;
  s.loras = options.loras != nullptr && !options.loras->empty() ? options.loras : nullptr;
  for (const auto& unit : units) s.layouts.push_back(make_layout(unit, checkpoint, options));
  if (plan.places.size() != units.size()) {
    throw Error(ErrorKind::kInternal, "a plan for another model");
  }
  if (plan.mapped) {
    s.plan = plan;
    for (const auto& unit : units) load_slots(checkpoint, unit.slots, options);
    return;
  }
  bool any_converted = false;
  for (const auto& layout : s.layouts) {
    for (const auto& tensor : layout.tensors) {
      for (const auto& piece : tensor.pieces) {
        any_converted = any_converted || !piece.in_reads;
        auto& file = s.files[piece.view.file.get()];
        if (!file) file = UncachedFile::open(piece.view.file->path());
      }
    }
  }
  if (any_converted) s.chunk = allocate_aligned(kChunk + 2 * kPage);
  if (s.on_device()) s.copier.emplace(s.device);
  s.prepare(plan);
  s.start_thread();
}

StreamedWeights::~StreamedWeights() {
  state_->stop_thread();
  for (const auto& layout : state_->layouts) layout.unbind();
}

void StreamedWeights::restart(const WeightsPlan& plan) {
  auto& s = *state_;
  s.stop_thread();
  s.prepare(plan);
  s.start_thread();
}

std::int64_t StreamedWeights::bytes_read() const { return state_->bytes_read; }

void StreamedWeights::end_pass() { state_->tell(State::Rest::kLeftOut); }

void StreamedWeights::bind(std::size_t unit) {
  auto& s = *state_;
  if (s.plan.mapped) {
    if (s.first_mapped_pass) {
      const auto last = std::min(unit + kReadAhead, s.layouts.size() - 1);
      for (std::size_t i = unit == 0 ? 0 : last; i <= last; ++i) unit_will_be_needed(s.layouts[i]);
      if (unit + 1 == s.layouts.size()) s.first_mapped_pass = false;
    }
    return;
  }
  if (s.plan.always > 0 && unit == s.plan.always) s.tell(State::Rest::kWanted);
  if (s.in_place[unit]) return;
  State::Buffer* buffer = nullptr;
  {
    std::unique_lock lock(s.mutex);
    s.wake.wait(lock, [&] {
      return s.error != nullptr || s.ready[unit].buffer != nullptr || s.loaded[unit];
    });
    if (s.ready[unit].buffer == nullptr && !s.loaded[unit]) std::rethrow_exception(s.error);
    if (s.ready[unit].buffer != nullptr) {
      buffer = std::exchange(s.ready[unit].buffer, nullptr);
      s.leased[unit] = buffer;
    }
  }
  if (buffer == nullptr) {
    s.in_place[unit] = true;
    s.layouts[unit].bind(s.residents[unit], s.resident_branches[unit]);
    return;
  }
  if (s.on_device()) {
    buffer->filled.block(at::accelerator::getCurrentStream(s.device.index()));
  }
  s.layouts[unit].bind(buffer->bytes, buffer->branches);
}

void StreamedWeights::release(std::size_t unit) noexcept {
  auto& s = *state_;
  if (s.plan.mapped || s.leased[unit] == nullptr) return;
  s.layouts[unit].unbind();
  try {
    if (s.on_device()) {
      s.leased[unit]->used.record(at::accelerator::getCurrentStream(s.device.index()));
    }
  } catch (...) {
    const std::lock_guard lock(s.mutex);
    s.error = std::current_exception();
  }
  {
    const std::lock_guard lock(s.mutex);
    s.leased[unit]->taken = false;
    s.leased[unit] = nullptr;
  }
  s.wake.notify_all();
}

}  // namespace steadyflux
