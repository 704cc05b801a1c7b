#include "weights/stored_tensor.h"

#include <cstring>

#include "quantization/half_float.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

template <typename Bits, typename Convert>
void convert(const std::byte* from, std::int64_t count, float* to, Convert to_float) {
  for (std::int64_t i = 0; i < count; ++i) {
    Bits bits{};
    std::memcpy(&bits, from + static_cast<std::size_t>(i) * sizeof bits, sizeof bits);
    to[i] = to_float(bits);
  }
}

}  // namespace

std::vector<const TensorView*> StoredRows::views() const {
  std::vector<const TensorView*> all = {&values};
  if (!packed) return all;
  for (const TensorView* view : {&packed->scales, &packed->absmax, &packed->nested_absmax}) {
    if (view->data != nullptr) all.push_back(view);
  }
  return all;
}

std::size_t StoredTensor::nbytes() const {
  std::size_t bytes = 0;
  for (const StoredRows& part : rows) {
    for (const TensorView* view : part.views()) bytes += view->nbytes;
  }
  return bytes;
}

PackedValues packed_values(const StoredRows& rows) {
  const PackedCompanions& packed = *rows.packed;
  PackedValues result;
  result.packing = packed.packing;
  result.dtype = rows.values.dtype;
  result.row_values = rows.values.shape.empty() ? 1 : rows.values.shape.back();
  result.data = rows.values.data;
  result.scales = packed.scales.data;
  result.scale_dtype = packed.scales.dtype;
  result.scale_count =
      static_cast<std::int64_t>(packed.scales.nbytes / item_size(packed.scales.dtype));
  result.scale_factor = packed.scale_factor;
  result.block = packed.block;
  result.first_value = packed.first_value;
  result.absmax = packed.absmax.data;
  result.nested_block = packed.nested_block;
  result.nested_absmax = packed.nested_absmax.data;
  result.nested_offset = packed.nested_offset;
  if (packed.tables) {
    result.code = packed.tables->code.data();
    if (packed.nested_absmax.data != nullptr) {
      result.nested_code = packed.tables->nested_code.data();
    }
  }
  return result;
}

void read_values(const StoredRows& rows, std::int64_t first, std::int64_t count, float* to) {
  if (rows.packed) {
    unpack(packed_values(rows), first, count, to);
    return;
  }
  const DType dtype = rows.values.dtype;
  const std::byte* from = rows.values.data + static_cast<std::size_t>(first) * item_size(dtype);
  switch (dtype) {
    case DType::kF32:
      std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float));
      return;
    case DType::kF64:
      convert<double>(from, count, to, [](double value) { return static_cast<float>(value); });
      return;
    case DType::kF16:
      convert<std::uint16_t>(from, count, to, half_to_float);
      return;
    case DType::kBF16:
      convert<std::uint16_t>(from, count, to, [](std::uint16_t bits) {
        const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
        float value = 0;
        std::memcpy(&value, &wide, sizeof value);
        return value;
      });
      return;
    default:
      throw Error(ErrorKind::kBadInput, rows.values.file->path().string() +
                                            ": has a weight of the dtype " + to_string(dtype) +
                                            ", expected floating point or a known quantisation");
  }
}

}  // namespace steadyflux
