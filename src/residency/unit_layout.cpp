#include "residency/unit_layout.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/bytes.h"
#include "config/transfer_sizes.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kPage = UncachedFile::kAlignment;
// Reading on over a short gap costs less than another request.
constexpr std::uint64_t kGap = 64 << 10;

std::uint64_t file_offset(const TensorView& view) {
  return static_cast<std::uint64_t>(view.data - view.file->bytes().data());
}

UnitLayout::Piece bytes_of(const TensorView& view, bool in_reads) {
  return {view, at::kByte, static_cast<std::int64_t>(view.nbytes), 0, in_reads};
}

UnitLayout::Tensor make_tensor(const TensorSlot& slot, const StoredTensor& stored,
                               const LoadOptions& options) {
  const bool on_cpu = options.device.is_cpu();
  UnitLayout::Tensor tensor{slot, stored, slot_dtype(slot, options.dtype), {}};
  if (slot.packed != nullptr && stored.keeps_packed()) {
    for (const auto* view : packed_parts(stored.first())) {
      if (view->data != nullptr) tensor.pieces.push_back(bytes_of(*view, on_cpu));
    }
    return tensor;
  }
  const auto& view = stored.first().values;
  tensor.made = !stored.plain_in_place();
  const bool as_it_lies = on_cpu && !tensor.made && weight_dtype(view) == tensor.dtype &&
                          file_offset(view) % item_size(view.dtype) == 0;
  tensor.pieces.push_back({view, tensor.dtype, value_count(slot.shape), 0, as_it_lies});
  return tensor;
}

void lay_out_apart(UnitLayout& layout) {
  for (auto& tensor : layout.tensors) {
    for (auto& piece : tensor.pieces) {
      if (piece.in_reads) continue;
      piece.offset = layout.bytes;
      layout.bytes += rounded_up(piece.bytes(), kTensorAlignment);
    }
  }
}

void lay_out_as_in_the_files(UnitLayout& layout) {
  std::vector<UnitLayout::Piece*> order;
  for (auto& tensor : layout.tensors) {
    for (auto& piece : tensor.pieces) {
      if (piece.in_reads) order.push_back(&piece);
    }
  }
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->view.file.get(), a->view.data) <
           std::pair(b->view.file.get(), b->view.data);
  });
  for (auto* piece : order) {
    const auto begin = file_offset(piece->view), end = begin + piece->view.nbytes;
    auto* last = layout.reads.empty() ? nullptr : &layout.reads.back();
    if (last == nullptr || last->file != piece->view.file.get() ||
        begin > last->offset + last->size + kGap) {
      const auto first_page = begin / kPage * kPage;
      layout.reads.push_back({piece->view.file.get(), first_page, 0, 0, layout.bytes});
      last = &layout.reads.back();
    }
    last->needed = std::max<std::size_t>(last->needed, end - last->offset);
    last->size =
        static_cast<std::size_t>(rounded_up(static_cast<std::int64_t>(last->needed), kPage));
    layout.bytes = last->to + static_cast<std::int64_t>(last->size);
    piece->offset = last->to + static_cast<std::int64_t>(begin - last->offset);
  }
}

PackedTensor packed_in_buffer(const UnitLayout::Tensor& tensor, const at::Tensor& buffer) {
  std::array<at::Tensor, kPackedParts> parts;
  const auto views = packed_parts(tensor.stored.first());
  std::size_t next = 0;
  for (std::size_t i = 0; i < kPackedParts; ++i) {
    if (views[i]->data == nullptr) continue;
    const auto& piece = tensor.pieces[next++];
    parts[i] = buffer.narrow(0, piece.offset, piece.count);
  }
  return {tensor.stored.shape, tensor.stored.first(), std::move(parts), tensor.dtype};
}

at::Tensor plain_in_buffer(const UnitLayout::Tensor& tensor, const at::Tensor& buffer) {
  const auto& piece = tensor.pieces.front();
  return buffer.narrow(0, piece.offset, piece.bytes()).view(tensor.dtype).view(tensor.slot.shape);
}

}  // namespace

void UnitLayout::bind(const at::Tensor& buffer, const Branches& branches) const {
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto& tensor = tensors[i];
    if (tensor.packed()) {
      *tensor.slot.packed = packed_in_buffer(tensor, buffer);
      if (!branches.empty() && tensor.slot.branches != nullptr) *tensor.slot.branches = branches[i];
    } else {
      *tensor.slot.tensor = plain_in_buffer(tensor, buffer);
    }
  }
}

void UnitLayout::merge(const at::Tensor& buffer, const LoraLayers& loras) const {
  for (const auto& tensor : tensors) {
    if (tensor.packed() || !loras.changes(tensor.slot.name)) continue;
    loras.merge(tensor.slot.name, plain_in_buffer(tensor, buffer));
  }
}

UnitLayout::Branches UnitLayout::make_branches(const at::Tensor& buffer,
                                               const LoraLayers& loras) const {
  Branches branches(tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (!tensors[i].packed() || !loras.changes(tensors[i].slot.name)) continue;
    branches[i] = loras.branches(tensors[i].slot.name, packed_in_buffer(tensors[i], buffer));
  }
  return branches;
}

void UnitLayout::unbind() const {
  for (const auto& tensor : tensors) {
    tensor.slot.tensor->reset();
    if (tensor.slot.packed != nullptr) tensor.slot.packed->reset();
    if (tensor.slot.branches != nullptr) tensor.slot.branches->reset();
  }
}

UnitLayout make_layout(const WeightUnit& unit, const ComponentWeights& checkpoint,
                       const LoadOptions& options) {
  const auto stored = match_slots(checkpoint, unit.slots, options);
  UnitLayout layout;
  layout.name = unit.name;
  for (std::size_t i = 0; i < unit.slots.size(); ++i) {
    layout.tensors.push_back(make_tensor(unit.slots[i], *stored[i], options));
  }
  lay_out_as_in_the_files(layout);
  lay_out_apart(layout);
  return layout;
}

}  // namespace steadyflux
