#include "nn/packed_tensor.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "nn/allocate_aligned.h"
#include "nn/unpack_on_device.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

// Values that one thread unpacks at a time; a multiple of every format's group.
constexpr std::int64_t kGrain = std::int64_t{1} << 16;

template <typename Bits>
void unpack_to(const PackedValues& layout, std::int64_t first, std::int64_t count, void* to) {
  unpack(layout, first, count, static_cast<Bits*>(to));
}

// values [first, first + count) to `to`, which holds values of `dtype`.
void unpack_as(const PackedValues& layout, at::ScalarType dtype, std::int64_t first,
               std::int64_t count, void* to) {
  switch (dtype) {
    case at::kFloat:
      return unpack_to<float>(layout, first, count, to);
    case at::kBFloat16:
      return unpack_to<BFloat16Bits>(layout, first, count, to);
    case at::kHalf:
      return unpack_to<Half16>(layout, first, count, to);
    default:
      throw Error(ErrorKind::kInternal, "packed weights in an unknown dtype");
  }
}

at::Tensor bytes_in_place(const TensorView& view) {
  if (view.data == nullptr) return {};
  return at::from_blob(
      const_cast<std::byte*>(view.data), {static_cast<std::int64_t>(view.nbytes)},
      [file = view.file](void*) {}, at::TensorOptions().dtype(at::kByte));
}

}  // namespace

std::array<const TensorView*, kPackedParts> packed_parts(const StoredRows& rows) {
  const auto& packed = *rows.packed;
  return {&rows.values, &packed.scales, &packed.absmax, &packed.nested_absmax};
}

PackedTensor::PackedTensor(std::vector<std::int64_t> shape, const StoredRows& rows,
                           std::array<at::Tensor, kPackedParts> parts, at::ScalarType dtype)
    : shape_(std::move(shape)),
      dtype_(dtype),
      layout_(packed_values(rows)),
      parts_(std::move(parts)),
      tables_(rows.packed->tables) {
  point_to_parts();
}

void PackedTensor::point_to_parts() {
  const auto pointer = [&](std::size_t part) -> const std::byte* {
    const auto& bytes = parts_[part];
    if (!bytes.defined() || !bytes.device().is_cpu()) return nullptr;
    return static_cast<const std::byte*>(bytes.const_data_ptr());
  };
  layout_.data = pointer(0);
  layout_.scales = pointer(1);
  layout_.absmax = pointer(2);
  layout_.nested_absmax = pointer(3);
}

PackedTensor PackedTensor::copied(const std::function<at::Tensor(const at::Tensor&)>& copy) const {
  auto result = *this;
  for (auto& part : result.parts_) {
    if (part.defined()) part = copy(part);
  }
  result.point_to_parts();
  return result;
}

PackedTensor PackedTensor::in_place(const StoredTensor& stored, at::ScalarType dtype) {
  std::array<at::Tensor, kPackedParts> parts;
  const auto views = packed_parts(stored.first());
  std::transform(views.begin(), views.end(), parts.begin(),
                 [](const TensorView* view) { return bytes_in_place(*view); });
  return {stored.shape, stored.first(), std::move(parts), dtype};
}

at::Tensor PackedTensor::unpacked(at::ScalarType dtype) const {
  if (!device().is_cpu()) {
    return unpack_on_device(layout_, parts_, shape_, dtype);
  }
  const auto size = value_count(shape_) * static_cast<std::int64_t>(c10::elementSize(dtype));
  // In large pages: to the system, every time is the first time that these are touched.
  const auto values = allocate_aligned(size).view(dtype).view(shape_);
  auto* to = static_cast<std::byte*>(values.mutable_data_ptr());
  const auto element = static_cast<std::int64_t>(values.element_size());
  const auto count = values.numel();
  at::parallel_for(0, (count + kGrain - 1) / kGrain, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto grain = begin; grain < end; ++grain) {
      const auto first = grain * kGrain;
      unpack_as(layout_, dtype, first, std::min(kGrain, count - first), to + first * element);
    }
  });
  return values;
}

at::Tensor PackedTensor::unpacked_rows(const at::Tensor& ids, at::ScalarType dtype) const {
  const auto flat = ids.flatten().contiguous();
  const auto row = layout_.row_values;
  auto values = at::empty({flat.numel(), row}, dtype);
  auto* to = static_cast<std::byte*>(values.mutable_data_ptr());
  const auto* numbers = flat.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < flat.numel(); ++i) {
    if (numbers[i] < 0 || numbers[i] >= shape_[0]) {
      throw Error(ErrorKind::kInternal, "a row that a table does not have");
    }
    unpack_as(layout_, dtype, numbers[i] * row, row,
              to + i * row * static_cast<std::int64_t>(values.element_size()));
  }
  return values;
}

}  // namespace steadyflux
