#include "conversion/pack_piece.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "quantization/half_float.h"
#include "quantization/quantize.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

template <std::uint16_t kConvert(float)>
void store_16_bits(const std::vector<float>& values, std::byte* to) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t bits = kConvert(values[i]);
    std::memcpy(to + i * sizeof bits, &bits, sizeof bits);
  }
}

void pack_values(const std::vector<float>& values, DType dtype, float scale, std::byte* to) {
  const auto count = static_cast<std::int64_t>(values.size());
  switch (dtype) {
    case DType::kF32:
      std::memcpy(to, values.data(), values.size() * sizeof(float));
      return;
    case DType::kF16:
      store_16_bits<float_to_half>(values, to);
      return;
    case DType::kBF16:
      store_16_bits<float_to_bfloat16>(values, to);
      return;
    case DType::kF8E4M3:
      quantize_float8_e4m3(values.data(), count, scale, to);
      return;
    default:
      quantize(dtype, values.data(), count, to);
  }
}

// What a reader of the new file will find.
void unpack_values(const std::vector<std::byte>& bytes, DType dtype, float scale,
                   std::vector<float>& values) {
  StoredRows rows;
  rows.values.dtype = dtype;
  rows.values.shape = {static_cast<std::int64_t>(values.size())};
  rows.values.data = bytes.data();
  rows.values.nbytes = bytes.size();
  if (is_block(dtype) || dtype == DType::kF8E4M3) {
    rows.packed.emplace();
    if (dtype == DType::kF8E4M3) {
      rows.packed->packing = Packing::kScaled;
      rows.packed->scales.data = reinterpret_cast<const std::byte*>(&scale);
      rows.packed->scales.nbytes = sizeof scale;
    }
  }
  read_values(rows, 0, static_cast<std::int64_t>(values.size()), values.data());
}

}  // namespace

PackedPiece pack_piece(const StoredRows& rows, std::int64_t first, std::int64_t count, DType dtype,
                       float scale) {
  std::vector<float> values(static_cast<std::size_t>(count));
  read_values(rows, first, count, values.data());
  PackedPiece piece;
  piece.bytes.resize(static_cast<std::size_t>(count / item_values(dtype)) * item_size(dtype));
  pack_values(values, dtype, scale, piece.bytes.data());
  std::vector<float> found(values.size());
  unpack_values(piece.bytes, dtype, scale, found);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double old = values[i];
    if (!std::isfinite(old)) {
      ++piece.not_finite;
      continue;
    }
    if (!std::isfinite(found[i])) {
      ++piece.beyond;
      continue;
    }
    piece.not_zero += old != 0;
    piece.vanished += old != 0 && found[i] == 0;
    const double error = found[i] - old;
    piece.squared_error += error * error;
    piece.squared_values += old * old;
  }
  return piece;
}

float largest_magnitude(const StoredRows& rows, std::int64_t first, std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  read_values(rows, first, count, values.data());
  float largest = 0;
  for (const float value : values) {
    if (std::isfinite(value)) largest = std::max(largest, std::fabs(value));
  }
  return largest;
}

}  // namespace steadyflux
