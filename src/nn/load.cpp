#include "nn/load.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "base/utf8.h"
#include "nn/pinned_copy.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

std::optional<at::ScalarType> weight_scalar_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return at::kFloat;
    case DType::kF16:
      return at::kHalf;
    case DType::kBF16:
      return at::kBFloat16;
    case DType::kF64:
      return at::kDouble;
    default:
      return std::nullopt;
  }
}

bool starts_with_any(const std::string& name, const std::vector<std::string>& prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(),
                     [&](const std::string& prefix) { return name.rfind(prefix, 0) == 0; });
}

// The name under which the checkpoint has the slot's tensor.
std::optional<std::string> find_name(const ComponentWeights& checkpoint, const TensorSlot& slot,
                                     const std::string& optional_prefix) {
  std::vector<std::string> names = {slot.name};
  names.insert(names.end(), slot.aliases.begin(), slot.aliases.end());
  for (const auto& name : names) {
    if (checkpoint.find(name)) return name;
    if (optional_prefix.empty()) continue;
    if (checkpoint.find(optional_prefix + name)) return optional_prefix + name;
  }
  return std::nullopt;
}

// Also a 1 x 1 convolution where a Linear is asked for: [out, in, 1, 1] is [out, in].
bool fits(const std::vector<std::int64_t>& stored, const std::vector<std::int64_t>& wanted) {
  const bool convolution =
      stored.size() == 4 && wanted.size() == 2 && stored[2] == 1 && stored[3] == 1;
  return stored == wanted ||
         (convolution && std::equal(wanted.begin(), wanted.end(), stored.begin()));
}

// Fewer columns than the slot has, and as many as it allows.
bool is_narrower(const StoredTensor& stored, const TensorSlot& slot) {
  return slot.stored_columns > 0 && slot.shape.size() == 2 &&
         fits(stored.shape, {slot.shape[0], slot.stored_columns});
}

void check_tensor(const StoredTensor& stored, const std::string& name, const TensorSlot& slot) {
  if (!fits(stored.shape, slot.shape) && !is_narrower(stored, slot)) {
    throw Error(
        ErrorKind::kBadInput,
        fmt::format("{}: tensor {} has shape {}, the config asks for {}", stored.path().string(),
                    name, shape_to_string(stored.shape), shape_to_string(slot.shape)));
  }
  if (!stored.packed() && !weight_scalar_type(stored.dtype())) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: tensor {} has dtype {}, expected F32, F16 and BF16 or a "
                            "quantisation that steadyflux knows",
                            stored.path().string(), name, to_string(stored.dtype())));
  }
}

// Values of `dtype` in memory of their own.
at::Tensor make_dense(const StoredTensor& stored, const std::vector<std::int64_t>& shape,
                      at::ScalarType dtype) {
  const auto result = at::empty(shape, dtype);
  const auto flat = result.view(-1);
  read_dense(stored, [&](std::int64_t first, const at::Tensor& values) {
    flat.narrow(0, first, values.numel()).copy_(values);
  });
  return result;
}

// The same with columns of 0 behind those of the file.
at::Tensor make_widened(const StoredTensor& stored, const TensorSlot& slot, at::ScalarType dtype) {
  const auto result = at::zeros(slot.shape, dtype);
  result.narrow(1, 0, slot.stored_columns)
      .copy_(make_dense(stored, {slot.shape[0], slot.stored_columns}, dtype));
  return result;
}

// The pages of the file need not stay: their values are elsewhere.
void forget_pages(const StoredTensor& stored) {
  for (const auto& rows : stored.rows) {
    for (const auto* view : rows.views()) view->file->forget({view->data, view->nbytes});
  }
}

void load_packed(const TensorSlot& slot, const StoredTensor& stored, const LoadOptions& options,
                 PinnedCopier* to_device) {
  auto packed = PackedTensor::in_place(stored, slot_dtype(slot, options.dtype));
  if (!slot.host_table && (to_device != nullptr || options.copy)) {
    packed = packed.copied([&](const at::Tensor& bytes) {
      return to_device != nullptr ? to_device->copy(bytes, at::kByte) : bytes.clone();
    });
    forget_pages(stored);
  }
  *slot.packed = std::move(packed);
  slot.tensor->reset();
  if (slot.branches == nullptr) return;
  slot.branches->reset();
  if (options.loras != nullptr) {
    *slot.branches = options.loras->branches(slot.name, **slot.packed);
  }
}

void load_slot(const TensorSlot& slot, const StoredTensor& stored, const LoadOptions& options,
               PinnedCopier* to_device) {
  const bool widened = is_narrower(stored, slot);
  if (slot.packed != nullptr && stored.keeps_packed() && !widened) {
    load_packed(slot, stored, options, to_device);
    return;
  }
  if (slot.packed != nullptr) slot.packed->reset();
  if (slot.branches != nullptr) slot.branches->reset();
  const auto dtype = slot_dtype(slot, options.dtype);
  const bool changed = options.loras != nullptr && options.loras->changes(slot.name);
  const bool in_place = stored.plain_in_place() && !widened;
  const auto tensor = in_place  ? to_tensor(stored.first().values).view(slot.shape)
                      : widened ? make_widened(stored, slot, dtype)
                                : make_dense(stored, slot.shape, dtype);
  if (slot.host_table) {
    *slot.tensor = tensor;
    return;
  }
  if (to_device != nullptr) {
    *slot.tensor = to_device->copy(tensor, dtype);
  } else {
    // Without `copy` none is made if the dtype is the file's.
    const bool copy = (options.copy || changed) && in_place;
    *slot.tensor = tensor.to(dtype, /*non_blocking=*/false, copy);
  }
  if (changed) options.loras->merge(slot.name, *slot.tensor);
  if (!in_place || slot.tensor->const_data_ptr() != tensor.const_data_ptr()) forget_pages(stored);
}

}  // namespace

void read_dense(const StoredTensor& stored,
                const std::function<void(std::int64_t first, const at::Tensor& values)>& sink) {
  constexpr std::int64_t kStep = std::int64_t{1} << 20;
  const auto values = at::empty({kStep}, at::kFloat);
  std::int64_t done = 0;
  for (const auto& rows : stored.rows) {
    const auto count = value_count(rows.values.shape);
    for (std::int64_t first = 0; first < count; first += kStep) {
      const auto step = std::min(kStep, count - first);
      read_values(rows, first, step, values.mutable_data_ptr<float>());
      sink(done, values.narrow(0, 0, step));
      done += step;
    }
    for (const auto* view : rows.views()) view->file->forget({view->data, view->nbytes});
  }
}

std::vector<const StoredTensor*> match_slots(const ComponentWeights& checkpoint,
                                             const std::vector<TensorSlot>& slots,
                                             const LoadOptions& options) {
  const auto where = checkpoint.path().string();
  std::set<std::string> used;
  std::vector<const StoredTensor*> tensors;
  for (const auto& slot : slots) {
    const auto name = find_name(checkpoint, slot, options.optional_prefix);
    if (!name) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{}: tensor {} is missing; the config asks for it with shape {}",
                              where, slot.name, shape_to_string(slot.shape)));
    }
    const auto* stored = checkpoint.find(*name);
    check_tensor(*stored, *name, slot);
    used.insert(*name);
    for (const auto& alias : slot.aliases) used.insert(alias);
    tensors.push_back(stored);
  }
  if (!options.complete) return tensors;
  for (const auto& [name, stored] : checkpoint.tensors()) {
    if (used.count(name) || starts_with_any(name, options.ignored_prefixes)) continue;
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: tensor {} has no place in the model that the config describes",
                            stored.path().string(), printable(name)));
  }
  return tensors;
}

at::ScalarType slot_dtype(const TensorSlot& slot, at::ScalarType dtype) {
  return slot.keep_in_fp32 && dtype == at::kHalf ? at::kFloat : dtype;
}

at::ScalarType weight_dtype(const TensorView& view) {
  if (const auto type = weight_scalar_type(view.dtype)) return *type;
  throw Error(ErrorKind::kBadInput,
              fmt::format("{}: {} is not a dtype of plain weights; steadyflux reads F32, F16, BF16",
                          view.file->path().string(), to_string(view.dtype)));
}

at::Tensor to_tensor(const TensorView& view) {
  const auto type = weight_dtype(view);
  auto* data = const_cast<std::byte*>(view.data);
  const auto options = at::TensorOptions().dtype(type);
  if (reinterpret_cast<std::uintptr_t>(data) % item_size(view.dtype) != 0) {
    auto bytes = at::empty({static_cast<std::int64_t>(view.nbytes)}, at::kByte);
    std::copy_n(data, view.nbytes, static_cast<std::byte*>(bytes.data_ptr()));
    return bytes.view(type).view(view.shape);
  }
  return at::from_blob(
      data, view.shape, [file = view.file](void*) {}, options);
}

void check_slots(const ComponentWeights& checkpoint, const std::vector<TensorSlot>& slots,
                 const LoadOptions& options) {
  match_slots(checkpoint, slots, options);
}

void load_slots(const ComponentWeights& checkpoint, const std::vector<TensorSlot>& slots,
                const LoadOptions& options) {
  const auto tensors = match_slots(checkpoint, slots, options);
  std::int64_t total = 0;
  for (const auto* stored : tensors) total += static_cast<std::int64_t>(stored->nbytes());
  std::optional<PinnedCopier> to_device;
  if (!options.device.is_cpu()) {
    // Twice the bytes: fp32 wanted of a 16-bit file.
    to_device.emplace(options.device, std::min(2 * total, kPinnedBufferBytes));
  }
  std::int64_t done = 0;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (options.progress) options.progress(done, total);
    load_slot(slots[i], *tensors[i], options, to_device ? &*to_device : nullptr);
    done += static_cast<std::int64_t>(tensors[i]->nbytes());
  }
  if (options.progress) options.progress(total, total);
}

std::int64_t slot_bytes(const std::vector<TensorSlot>& slots, at::ScalarType dtype) {
  std::int64_t bytes = 0;
  for (const auto& slot : slots) {
    bytes += value_count(slot.shape) * static_cast<std::int64_t>(c10::elementSize(dtype));
  }
  return bytes;
}

}  // namespace steadyflux
