#include "nn/unpack_on_device.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <initializer_list>
#include <numeric>

#include "steadyflux/error.h"

namespace steadyflux {
namespace {

// Values unpacked at a time: what lies between bytes and result takes a few times their size.
constexpr std::int64_t kChunkValues = std::int64_t{1} << 20;

// Blocks as rows of bytes, [n, item_size], and what their formats are made of.
class Blocks {
 public:
  explicit Blocks(at::Tensor bytes) : bytes_(std::move(bytes)) {}

  at::Tensor bytes(std::int64_t begin, std::int64_t count) const {
    return bytes_.narrow(1, begin, count);
  }
  // An fp16 number of every block, as fp32: [n, 1, 1].
  at::Tensor half(std::int64_t begin) const {
    return bytes(begin, 2).contiguous().view(at::kHalf).to(at::kFloat).unsqueeze(2);
  }
  // Bytes as groups of `group`, each group once for every shift, shifted right by it and masked:
  // [n, groups * shifts, group].
  at::Tensor fields(std::int64_t begin, std::int64_t count, std::int64_t group,
                    std::initializer_list<int> shifts, int mask) const {
    return fields_of(bytes(begin, count), group, shifts, mask);
  }
  static at::Tensor fields_of(const at::Tensor& bytes, std::int64_t group,
                              std::initializer_list<int> shifts, int mask) {
    std::vector<at::Tensor> parts;
    const auto groups = bytes.unflatten(1, {-1, group});  // [n, groups, group]
    for (const int shift : shifts) {
      parts.push_back(at::bitwise_and(at::bitwise_right_shift(groups, shift), mask));
    }
    return at::stack(parts, 2).flatten(1, 2);
  }

 private:
  at::Tensor bytes_;
};

at::Tensor as_signed(const at::Tensor& bytes) { return bytes.contiguous().view(at::kChar); }

// In groups of `size`, one scale each: q [n, ..., ...] -> [n, -1, size], fp32.
at::Tensor grouped(const at::Tensor& q, std::int64_t size) {
  return q.flatten(1).unflatten(1, {-1, size}).to(at::kFloat);
}

// --- One function per format: [n, item_size] bytes -> [n, item_values] fp32
// -----------------------

at::Tensor q4_0(const Blocks& b) {
  return b.half(0) * grouped(as_signed(b.fields(2, 16, 16, {0, 4}, 15)) - 8, 32);
}

at::Tensor q4_1(const Blocks& b) {
  return b.half(0) * grouped(b.fields(4, 16, 16, {0, 4}, 15), 32) + b.half(2);
}

// The fifth bits of 32 values, from 4 bytes.
at::Tensor fifth_bits(const Blocks& b, std::int64_t begin) {
  const auto bits = b.fields(begin, 4, 1, {0, 1, 2, 3, 4, 5, 6, 7}, 1);  // [n, 32, 1]
  return at::bitwise_left_shift(bits, 4).unflatten(1, {2, 16}).squeeze(3);
}

at::Tensor q5_0(const Blocks& b) {
  const auto q = at::bitwise_or(b.fields(6, 16, 16, {0, 4}, 15), fifth_bits(b, 2));
  return b.half(0) * grouped(as_signed(q) - 16, 32);
}

at::Tensor q5_1(const Blocks& b) {
  const auto q = at::bitwise_or(b.fields(8, 16, 16, {0, 4}, 15), fifth_bits(b, 4));
  return b.half(0) * grouped(q, 32) + b.half(2);
}

at::Tensor q8_0(const Blocks& b) { return b.half(0) * grouped(as_signed(b.bytes(2, 32)), 32); }

at::Tensor q2_k(const Blocks& b) {
  const auto scales = b.bytes(0, 16);
  const auto d = b.half(80) * grouped(at::bitwise_and(scales, 15), 1);
  const auto m = b.half(82) * grouped(at::bitwise_right_shift(scales, 4), 1);
  return d * grouped(b.fields(16, 64, 32, {0, 2, 4, 6}, 3), 16) - m;
}

at::Tensor q3_k(const Blocks& b) {
  const auto low = b.fields(96, 8, 8, {0, 4}, 15).flatten(1);         // [n, 16]
  const auto high = b.fields(104, 4, 4, {0, 2, 4, 6}, 3).flatten(1);  // [n, 16]
  const auto scales = as_signed(at::bitwise_or(low, at::bitwise_left_shift(high, 4))) - 32;
  const auto d = b.half(108) * grouped(scales, 1);
  const auto absent = at::bitwise_xor(b.fields(0, 32, 32, {0, 1, 2, 3, 4, 5, 6, 7}, 1), 1);
  const auto q = as_signed(b.fields(32, 64, 32, {0, 2, 4, 6}, 3)) -
                 as_signed(at::bitwise_left_shift(absent, 2));
  return d * grouped(q, 16);
}

struct ScalesAndMins {
  at::Tensor scales, mins;  // [n, 8, 1], fp32
};

// The 6-bit scales and minima of Q4_K and Q5_K, from 12 bytes.
ScalesAndMins scales_and_mins(const Blocks& b) {
  const auto d = b.bytes(4, 4), m = b.bytes(8, 4), rest = b.bytes(12, 4);
  const auto upper = [](const at::Tensor& x) {
    return at::bitwise_and(at::bitwise_right_shift(x, 2), 0x30);
  };
  const auto scales =
      at::cat({at::bitwise_and(d, 63), at::bitwise_or(at::bitwise_and(rest, 15), upper(d))}, 1);
  const auto mins = at::cat(
      {at::bitwise_and(m, 63), at::bitwise_or(at::bitwise_right_shift(rest, 4), upper(m))}, 1);
  return {b.half(0) * grouped(scales, 1), b.half(2) * grouped(mins, 1)};
}

at::Tensor q4_k(const Blocks& b) {
  const auto s = scales_and_mins(b);
  return s.scales * grouped(b.fields(16, 128, 32, {0, 4}, 15), 32) - s.mins;
}

at::Tensor q5_k(const Blocks& b) {
  const auto s = scales_and_mins(b);
  const auto high = b.fields(16, 32, 32, {0, 1, 2, 3, 4, 5, 6, 7}, 1);
  const auto q = at::bitwise_or(b.fields(48, 128, 32, {0, 4}, 15), at::bitwise_left_shift(high, 4));
  return s.scales * grouped(q, 32) - s.mins;
}

at::Tensor q6_k(const Blocks& b) {
  const auto low = b.fields(0, 128, 64, {0, 4}, 15).flatten(1);
  const auto high = b.fields(128, 64, 32, {0, 2, 4, 6}, 3).flatten(1);
  const auto q = as_signed(at::bitwise_or(low, at::bitwise_left_shift(high, 4))) - 32;
  return b.half(208) * grouped(as_signed(b.bytes(192, 16)), 1) * grouped(q, 16);
}

// The values that codes of IQ4_NL and IQ4_XS stand for.
at::Tensor iq4_values(const at::Tensor& codes) {
  const auto table =
      at::tensor({-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113},
                 at::kFloat)
          .to(codes.device());
  return table.index_select(0, codes.flatten().to(at::kLong)).view(codes.sizes());
}

at::Tensor iq4_nl(const Blocks& b) {
  return b.half(0) * grouped(iq4_values(b.fields(2, 16, 16, {0, 4}, 15)), 32);
}

at::Tensor iq4_xs(const Blocks& b) {
  const auto low = b.fields(4, 4, 1, {0, 4}, 15).flatten(1);        // [n, 8]
  const auto high = b.fields(2, 2, 1, {0, 2, 4, 6}, 3).flatten(1);  // [n, 8]
  const auto scales = as_signed(at::bitwise_or(low, at::bitwise_left_shift(high, 4))) - 32;
  return b.half(0) * grouped(scales, 1) * grouped(iq4_values(b.fields(8, 128, 16, {0, 4}, 15)), 32);
}

at::Tensor unpack_blocks(DType dtype, const Blocks& blocks) {
  switch (dtype) {
    case DType::kQ4_0:
      return q4_0(blocks);
    case DType::kQ4_1:
      return q4_1(blocks);
    case DType::kQ5_0:
      return q5_0(blocks);
    case DType::kQ5_1:
      return q5_1(blocks);
    case DType::kQ8_0:
      return q8_0(blocks);
    case DType::kQ2_K:
      return q2_k(blocks);
    case DType::kQ3_K:
      return q3_k(blocks);
    case DType::kQ4_K:
      return q4_k(blocks);
    case DType::kQ5_K:
      return q5_k(blocks);
    case DType::kQ6_K:
      return q6_k(blocks);
    case DType::kIQ4_NL:
      return iq4_nl(blocks);
    case DType::kIQ4_XS:
      return iq4_xs(blocks);
    default:
      throw Error(ErrorKind::kInternal, "no block type: " + to_string(dtype));
  }
}

// --- Values [first, first + count), flat, fp32
// ------------------------------------------------------

at::Tensor numbers_from(std::int64_t first, std::int64_t count, const at::Device& device) {
  return at::arange(first, first + count, at::TensorOptions().dtype(at::kLong).device(device));
}

at::Tensor as_floats(const at::Tensor& bytes) { return bytes.contiguous().view(at::kFloat); }

at::Tensor scales_as_floats(const PackedValues& layout, const at::Tensor& bytes) {
  const auto type = layout.scale_dtype == DType::kF32    ? at::kFloat
                    : layout.scale_dtype == DType::kBF16 ? at::kBFloat16
                                                         : at::kHalf;
  return bytes.contiguous().view(type).to(at::kFloat);
}

at::Tensor scaled_chunk(const PackedValues& layout, const std::array<at::Tensor, 4>& parts,
                        std::int64_t first, std::int64_t count) {
  const auto type = layout.dtype == DType::kI8       ? at::kChar
                    : layout.dtype == DType::kF8E4M3 ? at::kFloat8_e4m3fn
                                                     : at::kFloat8_e5m2;
  const auto values = parts[0].narrow(0, first, count).view(type).to(at::kFloat);
  if (!parts[1].defined()) return values;
  auto scales = scales_as_floats(layout, parts[1]);
  if (layout.scale_count > 1) {
    const auto rows = numbers_from(first, count, values.device()).div_(layout.row_values, "floor");
    scales = scales.index_select(0, rows);
  }
  const auto scaled = values * scales;
  return layout.scale_factor == 1 ? scaled : scaled * layout.scale_factor;
}

at::Tensor table_on(const float* values, std::int64_t count, const at::Device& device) {
  return at::from_blob(const_cast<float*>(values), {count}, at::kFloat).to(device);
}

at::Tensor codes_chunk(const PackedValues& layout, const std::array<at::Tensor, 4>& parts,
                       std::int64_t first, std::int64_t count) {
  const auto device = parts[0].device();
  const auto bytes = parts[0].narrow(0, first / 2, count / 2);
  const auto codes =
      at::stack({at::bitwise_right_shift(bytes, 4), at::bitwise_and(bytes, 15)}, 1).flatten();
  const auto blocks =
      numbers_from(layout.first_value + first, count, device).div_(layout.block, "floor");
  const auto begin = blocks[0].item<std::int64_t>(),
             end = blocks[count - 1].item<std::int64_t>() + 1;
  at::Tensor absmax;
  if (layout.nested_code != nullptr) {
    const auto nested = table_on(layout.nested_code, 256, device)
                            .index_select(0, parts[2].narrow(0, begin, end - begin).to(at::kLong));
    const auto scales = as_floats(parts[3]).index_select(
        0, numbers_from(begin, end - begin, device).div_(layout.nested_block, "floor"));
    absmax = nested * scales + layout.nested_offset;
  } else {
    absmax = as_floats(parts[2]).narrow(0, begin, end - begin);
  }
  return table_on(layout.code, 16, device).index_select(0, codes.to(at::kLong)) *
         absmax.index_select(0, blocks - begin);
}

at::Tensor blocks_chunk(const PackedValues& layout, const std::array<at::Tensor, 4>& parts,
                        std::int64_t first, std::int64_t count) {
  const auto size = static_cast<std::int64_t>(item_size(layout.dtype));
  const auto values = item_values(layout.dtype);
  const auto bytes = parts[0].narrow(0, first / values * size, count / values * size);
  return unpack_blocks(layout.dtype, Blocks(bytes.view({-1, size}))).flatten();
}

}  // namespace

at::Tensor unpack_on_device(const PackedValues& layout, const std::array<at::Tensor, 4>& parts,
                            const std::vector<std::int64_t>& shape, at::ScalarType dtype) {
  const auto result = at::empty(shape, parts[0].options().dtype(dtype));
  auto flat = result.view(-1);
  for (std::int64_t first = 0; first < flat.numel(); first += kChunkValues) {
    const auto count = std::min(kChunkValues, flat.numel() - first);
    flat.narrow(0, first, count)
        .copy_(layout.packing == Packing::kBlocks   ? blocks_chunk(layout, parts, first, count)
               : layout.packing == Packing::kScaled ? scaled_chunk(layout, parts, first, count)
                                                    : codes_chunk(layout, parts, first, count));
  }
  return result;
}

}  // namespace steadyflux
