#include "quantization/packed_values.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "quantization/block_formats.h"
#include "quantization/code_formats.h"
#include "quantization/half_float.h"
#include "quantization/instruction_set.h"
#include "quantization/isa.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

// --- blocks ------------------------------------------------------------------------------------

template <typename Format, typename Out>
struct BlockRun {
  const std::uint8_t* block;
  std::int64_t blocks;
  Out* to;

  template <typename Isa>
  STEADYFLUX_INLINE void operator()() const {
    typename Format::Parts parts;
    for (std::int64_t i = 0; i < blocks; ++i) {
      Format::template take_apart<Isa>(block + i * Format::kBytes, parts);
      Isa::template affine<Format::kPerScale>(parts.codes.data(), Format::kValues,
                                              parts.scales.data(), parts.minima.data(), 1,
                                              to + i * Format::kValues);
    }
  }
};

template <DType kType, typename Out>
void unpack_blocks(InstructionSet with, const PackedValues& from, std::int64_t first,
                   std::int64_t count, Out* to) {
  using Format = BlockFormat<kType>;
  const auto* data = reinterpret_cast<const std::uint8_t*>(from.data);
  run_with(with, BlockRun<Format, Out>{data + first / Format::kValues * Format::kBytes,
                                       count / Format::kValues, to});
}

template <typename Out>
void unpack_blocks(InstructionSet with, const PackedValues& from, std::int64_t first,
                   std::int64_t count, Out* to) {
  switch (from.dtype) {
    case DType::kQ4_0:
      return unpack_blocks<DType::kQ4_0>(with, from, first, count, to);
    case DType::kQ4_1:
      return unpack_blocks<DType::kQ4_1>(with, from, first, count, to);
    case DType::kQ5_0:
      return unpack_blocks<DType::kQ5_0>(with, from, first, count, to);
    case DType::kQ5_1:
      return unpack_blocks<DType::kQ5_1>(with, from, first, count, to);
    case DType::kQ8_0:
      return unpack_blocks<DType::kQ8_0>(with, from, first, count, to);
    case DType::kQ2_K:
      return unpack_blocks<DType::kQ2_K>(with, from, first, count, to);
    case DType::kQ3_K:
      return unpack_blocks<DType::kQ3_K>(with, from, first, count, to);
    case DType::kQ4_K:
      return unpack_blocks<DType::kQ4_K>(with, from, first, count, to);
    case DType::kQ5_K:
      return unpack_blocks<DType::kQ5_K>(with, from, first, count, to);
    case DType::kQ6_K:
      return unpack_blocks<DType::kQ6_K>(with, from, first, count, to);
    case DType::kIQ4_NL:
      return unpack_blocks<DType::kIQ4_NL>(with, from, first, count, to);
    case DType::kIQ4_XS:
      return unpack_blocks<DType::kIQ4_XS>(with, from, first, count, to);
    default:
      throw Error(ErrorKind::kInternal,
                  fmt::format("unpack: {} is not a block type", to_string(from.dtype)));
  }
}

// --- codes whose scales lie elsewhere ----------------------------------------------------------

float read_float(const std::byte* bytes, std::int64_t index) {
  float value = 0;
  std::memcpy(&value, bytes + index * static_cast<std::int64_t>(sizeof value), sizeof value);
  return value;
}

// Codes with one scale. Steps have a fixed length; what is left over goes through a copy, so that
// nothing is read or written past the ends.
template <typename Isa, typename Format, typename Out>
STEADYFLUX_INLINE void unpack_run(const Format& format, const std::uint8_t* codes,
                                  std::int64_t count, float scale, Out* to) {
  std::int64_t done = 0;
  for (; done + kCodeStep <= count; done += kCodeStep) {
    format.template operator()<Isa>(codes + done / Format::kCodesPerByte, scale, to + done);
  }
  if (done == count) return;
  const auto rest = static_cast<std::size_t>(count - done);
  std::array<std::uint8_t, kCodeStep> last_codes = {};
  std::array<Out, kCodeStep> last;
  std::memcpy(last_codes.data(), codes + done / Format::kCodesPerByte,
              rest / Format::kCodesPerByte);
  format.template operator()<Isa>(last_codes.data(), scale, last.data());
  std::memcpy(to + done, last.data(), rest * sizeof(Out));
}

// Value i, counted from where scales begin, has scale i / values_per_scale.
template <typename Format, typename Scales, typename Out>
struct CodeRun {
  Format format;
  Scales scales;
  const std::uint8_t* codes;
  std::int64_t first_of_codes;  // the value whose code is codes[0]
  std::int64_t values_per_scale;
  std::int64_t first, end;
  Out* to;

  template <typename Isa>
  STEADYFLUX_INLINE void operator()() const {
    auto at = first;
    auto scale_index = at / values_per_scale;
    while (at < end) {
      const auto run_end = std::min(end, (scale_index + 1) * values_per_scale);
      unpack_run<Isa>(format, codes + (at - first_of_codes) / Format::kCodesPerByte, run_end - at,
                      scales[scale_index], to + (at - first));
      at = run_end;
      ++scale_index;
    }
  }
};

// Of 16 or 32 bits.
float read_scale(const std::byte* bytes, DType dtype, std::int64_t index) {
  if (dtype == DType::kF32) return read_float(bytes, index);
  std::uint16_t bits = 0;
  std::memcpy(&bits, bytes + index * static_cast<std::int64_t>(sizeof bits), sizeof bits);
  return dtype == DType::kF16 ? half_to_float(bits)
                              : std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

// None, one, or one for each row.
struct RowScales {
  const std::byte* bytes;
  DType dtype;
  std::int64_t count;
  float operator[](std::int64_t row) const {
    if (count == 0) return 1;
    return read_scale(bytes, dtype, count == 1 ? 0 : row);
  }
};

struct Absmax {
  const PackedValues& from;
  float operator[](std::int64_t block) const {
    if (from.nested_code == nullptr) return read_float(from.absmax, block);
    const auto code = std::to_integer<std::uint8_t>(from.absmax[block]);
    return from.nested_code[code] * read_float(from.nested_absmax, block / from.nested_block) +
           from.nested_offset;
  }
};

template <typename Format, typename Out>
void unpack_scaled(InstructionSet with, const Format& format, const PackedValues& from,
                   std::int64_t first, std::int64_t count, Out* to) {
  const auto* codes = reinterpret_cast<const std::uint8_t*>(from.data);
  const auto end = first + count;
  const auto values_per_scale =
      from.scale_count > 1 ? from.row_values : std::max<std::int64_t>(end, 1);
  const RowScales scales{from.scales, from.scale_dtype, from.scale_count};
  run_with(with, CodeRun<Format, RowScales, Out>{format, scales, codes, 0, values_per_scale, first,
                                                 end, to});
}

template <typename Out>
void unpack_scaled(InstructionSet with, const PackedValues& from, std::int64_t first,
                   std::int64_t count, Out* to) {
  switch (from.dtype) {
    case DType::kF8E4M3:
      return unpack_scaled(with, Float8E4M3{from.scale_factor}, from, first, count, to);
    case DType::kF8E5M2:
      return unpack_scaled(with, Float8E5M2{from.scale_factor}, from, first, count, to);
    case DType::kI8:
      return unpack_scaled(with, Int8{from.scale_factor}, from, first, count, to);
    default:
      throw Error(ErrorKind::kInternal,
                  fmt::format("unpack: scaled {} is not known", to_string(from.dtype)));
  }
}

template <typename Out>
void unpack_any(InstructionSet with, const PackedValues& from, std::int64_t first,
                std::int64_t count, Out* to) {
  switch (from.packing) {
    case Packing::kBlocks:
      return unpack_blocks(with, from, first, count, to);
    case Packing::kScaled:
      return unpack_scaled(with, from, first, count, to);
    case Packing::kCodes4:
      break;
  }
  const auto begin = from.first_value + first;
  run_with(with, CodeRun<Codes4, Absmax, Out>{{from.code},
                                              {from},
                                              reinterpret_cast<const std::uint8_t*>(from.data),
                                              from.first_value,
                                              from.block,
                                              begin,
                                              begin + count,
                                              to});
}

}  // namespace

void unpack_with(InstructionSet with, const PackedValues& from, std::int64_t first,
                 std::int64_t count, float* to) {
  unpack_any(with, from, first, count, to);
}
void unpack(const PackedValues& from, std::int64_t first, std::int64_t count, float* to) {
  unpack_any(best_instruction_set(), from, first, count, to);
}

void unpack_with(InstructionSet with, const PackedValues& from, std::int64_t first,
                 std::int64_t count, BFloat16Bits* to) {
  unpack_any(with, from, first, count, to);
}
void unpack(const PackedValues& from, std::int64_t first, std::int64_t count, BFloat16Bits* to) {
  unpack_any(best_instruction_set(), from, first, count, to);
}

void unpack_with(InstructionSet with, const PackedValues& from, std::int64_t first,
                 std::int64_t count, Half16* to) {
  unpack_any(with, from, first, count, to);
}
void unpack(const PackedValues& from, std::int64_t first, std::int64_t count, Half16* to) {
  unpack_any(best_instruction_set(), from, first, count, to);
}

}  // namespace steadyflux
