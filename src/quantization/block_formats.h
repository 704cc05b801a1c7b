// GGML's block formats: for each the one function that takes a block apart. What it leaves is the
// same for all of them,
//     value = scale * code - minimum
// with scale and minimum for each 16 or 32 values, computed by the fp32 operations of gguf-py in
// their order (Q4_1 and Q5_1 add m there: the minimum is -m).
//
// A block begins or ends with fp16 numbers: d, and m or dmin for formats with a minimum. The
// K formats have 256 values in sub-blocks of 16 or 32, whose scales are small integers times d.
// Where 32 codes share bytes with others, neighbours lie in neighbouring bytes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "quantization/dtype.h"
#include "quantization/half_float.h"
#include "quantization/inline.h"

namespace steadyflux {

// A block taken apart. Formats without a minimum leave the zeros there.
template <int kValues_, int kPerScale_>
struct Parts {
  static constexpr int kValues = kValues_, kPerScale = kPerScale_;
  alignas(64) std::array<std::int8_t, kValues> codes;
  std::array<float, kValues / kPerScale> scales;
  std::array<float, kValues / kPerScale> minima = {};
};

// kBytes of a block, its Parts, and take_apart<Isa>(block, parts).
template <DType>
struct BlockFormat;

STEADYFLUX_INLINE std::uint16_t read_u16(const std::uint8_t* bytes) {
  return static_cast<std::uint16_t>(bytes[0] | bytes[1] << 8);
}
STEADYFLUX_INLINE float read_half(const std::uint8_t* bytes) {
  return half_to_float(read_u16(bytes));
}

// 16 bytes that operators work on at once: short loops are unrolled before compilers would make
// vectors of them.
using Bytes16 = std::uint8_t __attribute__((vector_size(16)));
using Words2 = std::uint64_t __attribute__((vector_size(16)));

STEADYFLUX_INLINE void load(const std::uint8_t* from, Bytes16& bytes) {
  std::memcpy(&bytes, from, sizeof bytes);
}
template <typename Byte>
STEADYFLUX_INLINE void store(const Bytes16& bytes, Byte* to) {
  std::memcpy(to, &bytes, sizeof bytes);
}

// 32 codes from 16 bytes: the lower halves, then the upper ones; less `offset`.
template <typename Code>
STEADYFLUX_INLINE void split_nibbles(const std::uint8_t* from, std::uint8_t offset, Code* codes) {
  Bytes16 bytes;
  load(from, bytes);
  store((bytes & 15) - offset, codes);
  store((bytes >> 4) - offset, codes + 16);
}

// The same with a fifth bit for each, from 4 bytes.
STEADYFLUX_INLINE void split_nibbles5(const std::uint8_t* high_bits, const std::uint8_t* from,
                                      std::uint8_t offset, std::int8_t* codes) {
  constexpr Bytes16 kBit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  Bytes16 bytes;
  load(from, bytes);
  for (std::ptrdiff_t half = 0; half < 2; ++half) {
    constexpr std::uint64_t kEight = 0x0101010101010101;  // times a byte: the byte eight times
    const Words2 spread = {high_bits[2 * half] * kEight, high_bits[2 * half + 1] * kEight};
    const auto is_set = (reinterpret_cast<Bytes16>(spread) & kBit) != 0;
    const Bytes16 high = reinterpret_cast<Bytes16>(is_set) & 16;
    store(((half == 0 ? bytes & 15 : bytes >> 4) | high) - offset, codes + 16 * half);
  }
}

template <>
struct BlockFormat<DType::kQ4_0> : Parts<32, 32> {
  static constexpr int kBytes = 18;
  template <typename Isa>
  STEADYFLUX_INLINE static void take_apart(const std::uint8_t* STEADYFLUX_RESTRICT block,
                                           Parts& STEADYFLUX_RESTRICT parts) {
    parts.scales[0] = read_half(block);
    split_nibbles(block + 2, 8, parts.codes.data());
  }
};

template <>
struct BlockFormat<DType::kQ4_1> : Parts<32, 32> {
  static constexpr int kBytes = 20;
  template <typename Isa>
  STEADYFLUX_INLINE static void take_apart(const std::uint8_t* STEADYFLUX_RESTRICT block,
                                           Parts& STEADYFLUX_RESTRICT parts) {
    parts.scales[0] = read_half(block);
    parts.minima[0] = -read_half(block + 2);
    split_nibbles(block + 4, 0, parts.codes.data());
  }
};

template <>
struct BlockFormat<DType::kQ5_0> : Parts<32, 32> {
  static constexpr int kBytes = 22;
  template <typename Isa>
  STEADYFLUX_INLINE static void take_apart(const std::uint8_t* STEADYFLUX_RESTRICT block,
                                           Parts& STEADYFLUX_RESTRICT parts) {
    parts.scales[0] = read_half(block);
    split_nibbles5(block + 2, block + 6, 16, parts.codes.data());
  }
};

template <>
struct BlockFormat<DType::kQ5_1> : Parts<32, 32> {
  static constexpr int kBytes = 24;
  template <typename Isa>
  STEADYFLUX_INLINE static void take_apart(const std::uint8_t* STEADYFLUX_RESTRICT block,
                                           Parts& STEADYFLUX_RESTRICT parts) {
    parts.scales[0] = read_half(block);
    parts.minima[0] = -read_half(block + 2);
    split_nibbles5(block + 4, block + 8, 0, parts.codes.data());
  }
};

template <>
struct BlockFormat<DType::kQ8_0> : Parts<32, 32> {
  static constexpr int kBytes = 34;
  template <typename Isa>
  STEADYFLUX_INLINE static void take_apart(const std::uint8_t* STEADYFLUX_RESTRICT block,
                                           Parts& STEADYFLUX_RESTRICT parts) {
    parts.scales[0] = read_half(block);
    std::memcpy(parts.codes.data(), block + 2, 32);
  }
};

template <>
struct BlockFormat<DType::kQ2_K> : Parts<256, 16> {
  static constexpr int kBytes = 84;
  template <typename Isa>
  STEADYFLUX_INLINE static void take_apart(const std::uint8_t* STEADYFLUX_RESTRICT block,
                                           Parts& STEADYFLUX_RESTRICT parts) {
    const std::uint8_t *scales = block, *codes = block + 16;
    const float d = read_half(block + 80), dmin = read_half(block + 82);
    for (int i = 0; i < 16; ++i) {
      parts.scales[i] = d * static_cast<float>(scales[i] & 15);
      parts.minima[i] = dmin * static_cast<float>(scales[i] >> 4);
    }
    for (int part = 0; part < 8; ++part) {  // of 32 values
      for (int i = 0; i < 32; ++i) {
        parts.codes[32 * part + i] =
            static_cast<std::int8_t>(codes[part / 4 * 32 + i] >> (part % 4 * 2) & 3);
      }
    }
  }
};

template <>
struct BlockFormat<DType::kQ3_K> : Parts<256, 16> {
  static constexpr int kBytes = 110;
  template <typename Isa>
  STEADYFLUX_INLINE static void take_apart(const std::uint8_t* STEADYFLUX_RESTRICT block,
                                           Parts& STEADYFLUX_RESTRICT parts) {
    const std::uint8_t *high_bits = block, *codes = block + 32, *scales = block + 96;
    const float d = read_half(block + 108);
    for (int i = 0; i < 16; ++i) {
      const int low = scales[i % 8] >> (i / 8 * 4) & 15;
      const int high = scales[8 + i % 4] >> (i / 4 * 2) & 3;
      parts.scales[i] = d * static_cast<float>((low | high << 4) - 32);
    }
    for (int part = 0; part < 8; ++part) {
      for (int i = 0; i < 32; ++i) {  // a high bit that is not set means - 4
        const int low = codes[part / 4 * 32 + i] >> (part % 4 * 2) & 3;
        const int high = high_bits[i] >> part & 1;
        parts.codes[32 * part + i] = static_cast<std::int8_t>(low + 4 * high - 4);
      }
    }
  }
};

// The eight scales and minima of Q4_K and Q5_K, 6 bits each, in 12 bytes: the first four in the low
// bits of bytes 0..3 and 4..7; of the others four bits in bytes 8..11, two above the first ones.
STEADYFLUX_INLINE void read_k_scales(const std::uint8_t* block, float* scales, float* minima) {
  const float d = read_half(block), dmin = read_half(block + 2);
  const std::uint8_t* packed = block + 4;
  for (int i = 0; i < 4; ++i) {
    const int a = packed[i], b = packed[4 + i], c = packed[8 + i];
    scales[i] = d * static_cast<float>(a & 63);
    minima[i] = dmin * static_cast<float>(b & 63);
    scales[4 + i] = d * static_cast<float>((c & 15) | (a >> 6) << 4);
    minima[4 + i] = dmin * static_cast<float>(c >> 4 | (b >> 6) << 4);
  }
}

template <>
struct BlockFormat<DType::kQ4_K> : Parts<256, 32> {
  static constexpr int kBytes = 144;
  template <typename Isa>
  STEADYFLUX_INLINE static void take_apart(const std::uint8_t* STEADYFLUX_RESTRICT block,
                                           Parts& STEADYFLUX_RESTRICT parts) {
    read_k_scales(block, parts.scales.data(), parts.minima.data());
    const std::uint8_t* nibbles = block + 16;
    for (int part = 0; part < 8; ++part) {
      for (int i = 0; i < 32; ++i) {
        parts.codes[32 * part + i] =
            static_cast<std::int8_t>(nibbles[part / 2 * 32 + i] >> (part % 2 * 4) & 15);
      }
    }
  }
};

template <>
struct BlockFormat<DType::kQ5_K> : Parts<256, 32> {
  static constexpr int kBytes = 176;
  template <typename Isa>
  STEADYFLUX_INLINE static void take_apart(const std::uint8_t* STEADYFLUX_RESTRICT block,
                                           Parts& STEADYFLUX_RESTRICT parts) {
    read_k_scales(block, parts.scales.data(), parts.minima.data());
    const std::uint8_t *high_bits = block + 16, *nibbles = block + 48;
    for (int part = 0; part < 8; ++part) {
      for (int i = 0; i < 32; ++i) {
        const int low = nibbles[part / 2 * 32 + i] >> (part % 2 * 4) & 15;
        const int high = high_bits[i] >> part & 1;
        parts.codes[32 * part + i] = static_cast<std::int8_t>(low | high << 4);
      }
    }
  }
};

template <>
struct BlockFormat<DType::kQ6_K> : Parts<256, 16> {
  static constexpr int kBytes = 210;
  template <typename Isa>
  STEADYFLUX_INLINE static void take_apart(const std::uint8_t* STEADYFLUX_RESTRICT block,
                                           Parts& STEADYFLUX_RESTRICT parts) {
    const std::uint8_t *nibbles = block, *high_bits = block + 128, *scales = block + 192;
    const float d = read_half(block + 208);
    for (int i = 0; i < 16; ++i) {
      parts.scales[i] = d * static_cast<float>(static_cast<std::int8_t>(scales[i]));
    }
    for (int part = 0; part < 8; ++part) {  // 64 bytes of nibbles hold 128 values
      const std::uint8_t* bytes = nibbles + (part / 4 * 64 + part % 2 * 32);
      for (int i = 0; i < 32; ++i) {
        const int low = bytes[i] >> (part % 4 / 2 * 4) & 15;
        const int high = high_bits[part / 4 * 32 + i] >> (part % 4 * 2) & 3;
        parts.codes[32 * part + i] = static_cast<std::int8_t>((low | high << 4) - 32);
      }
    }
  }
};

// What the codes of IQ4_NL and IQ4_XS stand for.
inline constexpr std::array<std::int8_t, 16> kIq4Values = {
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

template <>
struct BlockFormat<DType::kIQ4_NL> : Parts<32, 32> {
  static constexpr int kBytes = 18;
  template <typename Isa>
  STEADYFLUX_INLINE static void take_apart(const std::uint8_t* STEADYFLUX_RESTRICT block,
                                           Parts& STEADYFLUX_RESTRICT parts) {
    parts.scales[0] = read_half(block);
    std::array<std::uint8_t, 32> codes;
    split_nibbles(block + 2, 0, codes.data());
    Isa::look_up8(codes.data(), 32, kIq4Values.data(), parts.codes.data());
  }
};

template <>
struct BlockFormat<DType::kIQ4_XS> : Parts<256, 32> {
  static constexpr int kBytes = 136;
  template <typename Isa>
  STEADYFLUX_INLINE static void take_apart(const std::uint8_t* STEADYFLUX_RESTRICT block,
                                           Parts& STEADYFLUX_RESTRICT parts) {
    const float d = read_half(block);
    const int scales_high = read_u16(block + 2);
    std::array<std::uint8_t, 256> codes;
    for (std::ptrdiff_t part = 0; part < 8; ++part) {
      const int low = block[4 + part / 2] >> (part % 2 * 4) & 15;
      const int high = scales_high >> (2 * part) & 3;
      parts.scales[part] = d * static_cast<float>((low | high << 4) - 32);
      split_nibbles(block + 8 + 16 * part, 0, codes.data() + 32 * part);
    }
    Isa::look_up8(codes.data(), 256, kIq4Values.data(), parts.codes.data());
  }
};

}  // namespace steadyflux
