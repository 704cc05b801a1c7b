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
std::optional<std::string> find_name(const Checkpoint& checkpoint, const TensorSlot& slot,
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

}  // namespace

std::vector<const TensorView*> match_slots(const Checkpoint& checkpoint,
                                           const std::vector<TensorSlot>& slots,
                                           const LoadOptions& options) {
  const auto where = checkpoint.path().string();
  std::set<std::string> used;
  std::vector<const TensorView*> views;
  for (const auto& slot : slots) {
    const auto name = find_name(checkpoint, slot, options.optional_prefix);
    if (!name) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{}: tensor {} is missing; the config asks for it with shape {}",
                              where, slot.name, shape_to_string(slot.shape)));
    }
    const auto* view = checkpoint.find(*name);
    if (view->shape != slot.shape) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{}: tensor {} has shape {}, the config asks for {}",
                              view->file->path().string(), *name, shape_to_string(view->shape),
                              shape_to_string(slot.shape)));
    }
    if (!weight_scalar_type(view->dtype)) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{}: tensor {} has dtype {}; steadyflux reads F32, F16 and BF16",
                              view->file->path().string(), *name, to_string(view->dtype)));
    }
    used.insert(*name);
    for (const auto& alias : slot.aliases) used.insert(alias);
    views.push_back(view);
  }
  if (!options.complete) return views;
  for (const auto& [name, view] : checkpoint.tensors()) {
    if (used.count(name) || starts_with_any(name, options.ignored_prefixes)) continue;
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: tensor {} has no place in the model that the config describes",
                            view.file->path().string(), printable(name)));
  }
  return views;
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

void check_slots(const Checkpoint& checkpoint, const std::vector<TensorSlot>& slots,
                 const LoadOptions& options) {
  match_slots(checkpoint, slots, options);
}

void load_slots(const Checkpoint& checkpoint, const std::vector<TensorSlot>& slots,
                const LoadOptions& options) {
  const auto views = match_slots(checkpoint, slots, options);
  std::int64_t total = 0;
  for (const auto* view : views) total += static_cast<std::int64_t>(view->nbytes);
  std::optional<PinnedCopier> to_device;
  if (!options.device.is_cpu()) {
    // Twice the bytes: fp32 wanted of a 16-bit file.
    to_device.emplace(options.device, std::min(2 * total, kPinnedBufferBytes));
  }
  std::int64_t done = 0;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (options.progress) options.progress(done, total);
    const auto dtype = slot_dtype(slots[i], options.dtype);
    auto tensor = to_tensor(*views[i]);
    if (slots[i].host_table) {
      *slots[i].tensor = tensor;
    } else if (to_device) {
      *slots[i].tensor = to_device->copy(tensor, dtype);
    } else {
      // Without `copy` none is made if the dtype is the file's.
      *slots[i].tensor = tensor.to(dtype, /*non_blocking=*/false, options.copy);
    }
    if (!slots[i].host_table && slots[i].tensor->const_data_ptr() != tensor.const_data_ptr()) {
      views[i]->file->forget({views[i]->data, views[i]->nbytes});
    }
    done += static_cast<std::int64_t>(views[i]->nbytes);
  }
  if (options.progress) options.progress(total, total);
}

at::ScalarType dominant_dtype(const Checkpoint& checkpoint) {
  std::map<DType, std::size_t> bytes;
  for (const auto& [name, view] : checkpoint.tensors()) bytes[view.dtype] += view.nbytes;
  const auto most = std::max_element(
      bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most == bytes.end()) return at::kFloat;
  const auto type = weight_scalar_type(most->first);
  return type && *type != at::kDouble ? *type : at::kFloat;
}

std::int64_t slot_bytes(const std::vector<TensorSlot>& slots, at::ScalarType dtype) {
  std::int64_t bytes = 0;
  for (const auto& slot : slots) {
    std::int64_t numel = 1;
    for (auto size : slot.shape) numel *= size;
    bytes += numel * static_cast<std::int64_t>(c10::elementSize(dtype));
  }
  return bytes;
}

}  // namespace steadyflux
