// A matrix of weights whose values are packed: GGML blocks, 8-bit floats with or without scales,
// bitsandbytes' 4-bit codes and LLM.int8. This describes where its bytes are, in a mapped file or
// in a buffer, and `unpack` gives the values back, exactly those that the format's own library
// gives (gguf-py, PyTorch, bitsandbytes): computed in fp32, then rounded once to what is asked for.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quantization/dtype.h"

namespace steadyflux {

enum class Packing {
  kBlocks,  // GGML: all is in the blocks
  kScaled,  // 8-bit floats (kF8E4M3, kF8E5M2) or integers (kI8): value * scale
  kCodes4,  // bitsandbytes NF4 or FP4: two codes in a byte, the first in the high half; code[c] *
            // absmax of the block
};

struct PackedValues {
  Packing packing = Packing::kBlocks;
  DType dtype = DType::kQ8_0;       // of `data`; kU8 for kCodes4
  std::int64_t row_values = 0;      // values in a row
  const std::byte* data = nullptr;  // no alignment is promised, nor for what follows

  // kScaled: scale_count 0 (none), 1 (one for all) or one for each row.
  const std::byte* scales = nullptr;
  DType scale_dtype = DType::kF32;  // or kBF16, kF16: become fp32 before they multiply
  std::int64_t scale_count = 0;
  float scale_factor = 1;  // multiplies value * scale: 1 / 127 as a float for LLM.int8

  // kCodes4: block b of the tensor it was cut from holds its values [b * block, (b + 1) * block);
  // `first_value` says where in that tensor data[0] lies, counted from where `absmax` begins.
  const float* code = nullptr;  // 16 values, aligned, owned by someone who lives long enough
  std::int64_t block = 64;
  std::int64_t first_value = 0;
  const std::byte* absmax =
      nullptr;  // fp32 for each block; or, with nested_code, one byte for each
  // Double quantisation: absmax = nested_code[byte] * nested_absmax[b / nested_block] +
  // nested_offset.
  const float* nested_code = nullptr;        // 256 values, aligned
  const std::byte* nested_absmax = nullptr;  // fp32
  std::int64_t nested_block = 256;
  float nested_offset = 0;
};

// Bits of the 16-bit types, so that this stays free of libtorch.
struct Half16 {
  std::uint16_t bits;
};
struct BFloat16Bits {
  std::uint16_t bits;
};

// Values [first, first + count) in row-major order. For block types both are multiples of
// item_values(dtype); for kCodes4 even. Rounds to nearest even. From any thread.
void unpack(const PackedValues& from, std::int64_t first, std::int64_t count, float* to);
void unpack(const PackedValues& from, std::int64_t first, std::int64_t count, BFloat16Bits* to);
void unpack(const PackedValues& from, std::int64_t first, std::int64_t count, Half16* to);

}  // namespace steadyflux
