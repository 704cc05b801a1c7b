#include "residency/unit_layout.h"

#include <ATen/ATen.h>
#include <sys/mman.h>

#include <algorithm>

namespace steadyflux {
namespace {

constexpr std::int64_t kPage = UncachedFile::kAlignment;
constexpr std::int64_t kTensorAlignment = 512;  // what CUDA's allocator gives single tensors
constexpr std::int64_t kLargePages = std::int64_t{4} << 20;
// Reading on over a short gap costs less than another request.
constexpr std::uint64_t kGap = 64 << 10;

std::int64_t rounded_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

std::uint64_t file_offset(const TensorView& view) {
  return static_cast<std::uint64_t>(view.data - view.file->bytes().data());
}

std::int64_t tensor_bytes(const UnitLayout::Tensor& tensor) {
  std::int64_t count = 1;
  for (const auto size : tensor.slot.shape) count *= size;
  return count * static_cast<std::int64_t>(c10::elementSize(tensor.dtype));
}

bool is_direct(const UnitLayout& layout, const LoadOptions& options) {
  return options.device.is_cpu() &&
         std::all_of(layout.tensors.begin(), layout.tensors.end(), [](const auto& tensor) {
           return weight_dtype(tensor.view) == tensor.dtype &&
                  file_offset(tensor.view) % item_size(tensor.view.dtype) == 0;
         });
}

void lay_out_apart(UnitLayout& layout) {
  for (auto& tensor : layout.tensors) {
    tensor.offset = layout.bytes;
    layout.bytes += rounded_up(tensor_bytes(tensor), kTensorAlignment);
  }
}

void lay_out_as_in_the_files(UnitLayout& layout) {
  std::vector<UnitLayout::Tensor*> order;
  for (auto& tensor : layout.tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->view.file.get(), a->view.data) <
           std::pair(b->view.file.get(), b->view.data);
  });
  for (auto* tensor : order) {
    const auto begin = file_offset(tensor->view), end = begin + tensor->view.nbytes;
    auto* last = layout.reads.empty() ? nullptr : &layout.reads.back();
    if (last == nullptr || last->file != tensor->view.file.get() ||
        begin > last->offset + last->size + kGap) {
      const auto first_page = begin / kPage * kPage;
      layout.reads.push_back({tensor->view.file.get(), first_page, 0, 0, layout.bytes});
      last = &layout.reads.back();
    }
    last->needed = std::max<std::size_t>(last->needed, end - last->offset);
    last->size =
        static_cast<std::size_t>(rounded_up(static_cast<std::int64_t>(last->needed), kPage));
    layout.bytes = last->to + static_cast<std::int64_t>(last->size);
    tensor->offset = last->to + static_cast<std::int64_t>(begin - last->offset);
  }
}

}  // namespace

void UnitLayout::bind(const at::Tensor& buffer) const {
  for (const auto& tensor : tensors) {
    *tensor.slot.tensor = buffer.narrow(0, tensor.offset, tensor_bytes(tensor))
                              .view(tensor.dtype)
                              .view(tensor.slot.shape);
  }
}

void UnitLayout::unbind() const {
  for (const auto& tensor : tensors) tensor.slot.tensor->reset();
}

UnitLayout make_layout(const WeightUnit& unit, const Checkpoint& checkpoint,
                       const LoadOptions& options) {
  const auto views = match_slots(checkpoint, unit.slots, options);
  UnitLayout layout;
  layout.name = unit.name;
  for (std::size_t i = 0; i < unit.slots.size(); ++i) {
    const auto& slot = unit.slots[i];
    layout.tensors.push_back({slot, *views[i], slot_dtype(slot, options.dtype), 0});
  }
  if (is_direct(layout, options)) {
    lay_out_as_in_the_files(layout);
  } else {
    lay_out_apart(layout);
  }
  return layout;
}

at::Tensor allocate_aligned(std::int64_t size) {
  const auto alignment = size >= kLargePages ? std::int64_t{2} << 20 : kPage;
  const auto room = at::empty({size + alignment}, at::kByte);
  const auto address = reinterpret_cast<std::intptr_t>(room.const_data_ptr());
  auto bytes = room.narrow(0, rounded_up(address, alignment) - address, size);
#if defined(MADV_HUGEPAGE)
  // A hint: without it the buffer works as well, with more entries in the page tables.
  if (size >= kLargePages) {
    ::madvise(bytes.mutable_data_ptr(), static_cast<std::size_t>(size), MADV_HUGEPAGE);
  }
#endif
  return bytes;
}

}  // namespace steadyflux
