// Instruction sets. The program is built for plain x86-64 (or another CPU); loops that matter are
// compiled once for each of these types and the best one is chosen at run time. A loop is an
// always-inline template; `Avx2::run` and its like are what it is inlined into, so that compilers
// vectorise it for that target. What they would not find by themselves is here, by hand: from codes
// to numbers, rounded to what is asked for.
#pragma once

#include <cstdint>

#include "quantization/half_float.h"
#include "quantization/instruction_set.h"
#include "quantization/packed_values.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define STEADYFLUX_X86 1
#ifndef __clang__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // g++ 12's own intrinsics: _mm512_undefined_ps
#endif
#include <immintrin.h>
#define STEADYFLUX_AVX2 __attribute__((target("avx2,f16c")))
#define STEADYFLUX_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,f16c")))
#endif

namespace steadyflux {

// In all of these, count is a multiple of 16:
//   affine     to[i] = (scales[s] * codes[i] - minima[s]) * factor, s = i / kPerScale
//   halves     to[i] = (the fp16 number halves[i]) * power * scale * factor
//   look_up    to[i] = table[codes[i]] * scale; codes below 16
//   look_up8   the same for bytes, without a scale
struct Portable {
  template <typename Work>
  static void run(const Work& work) {
    work.template operator()<Portable>();
  }

  static void put(float* to, float value) { *to = value; }
  static void put(BFloat16Bits* to, float value) { to->bits = float_to_bfloat16(value); }
  static void put(Half16* to, float value) { to->bits = float_to_half(value); }

  template <int kPerScale, typename Out>
  static void affine(const std::int8_t* STEADYFLUX_RESTRICT codes, int count,
                     const float* STEADYFLUX_RESTRICT scales,
                     const float* STEADYFLUX_RESTRICT minima, float factor,
                     Out* STEADYFLUX_RESTRICT to) {
    for (int s = 0; s < count / kPerScale; ++s) {
      const float scale = scales[s], minimum = minima[s];
      for (int i = s * kPerScale; i < (s + 1) * kPerScale; ++i) {
        put(to + i, (scale * static_cast<float>(codes[i]) - minimum) * factor);
      }
    }
  }

  template <typename Out>
  static void halves(const std::uint16_t* STEADYFLUX_RESTRICT halves, int count, float power,
                     float scale, float factor, Out* STEADYFLUX_RESTRICT to) {
    for (int i = 0; i < count; ++i) put(to + i, half_to_float(halves[i]) * power * scale * factor);
  }

  template <typename Out>
  static void look_up(const std::uint8_t* STEADYFLUX_RESTRICT codes, int count,
                      const float* STEADYFLUX_RESTRICT table, float scale,
                      Out* STEADYFLUX_RESTRICT to) {
    for (int i = 0; i < count; ++i) put(to + i, table[codes[i]] * scale);
  }

  static void look_up8(const std::uint8_t* STEADYFLUX_RESTRICT codes, int count,
                       const std::int8_t* STEADYFLUX_RESTRICT table,
                       std::int8_t* STEADYFLUX_RESTRICT to) {
    for (int i = 0; i < count; ++i) to[i] = table[codes[i]];
  }
};

#ifdef STEADYFLUX_X86
struct Avx2 {
  template <typename Work>
  STEADYFLUX_AVX2 static void run(const Work& work) {
    work.template operator()<Avx2>();
  }

  // Eight values each.
  STEADYFLUX_AVX2 static __m256i bfloat16_bits(__m256 value) {  // in 32 bits
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i high = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, up), 16);
    const __m256i nan = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    const __m256 is_nan = _mm256_cmp_ps(value, value, _CMP_UNORD_Q);
    return _mm256_blendv_epi8(rounded, nan, _mm256_castps_si256(is_nan));
  }
  STEADYFLUX_AVX2 static void put(float* to, __m256 a, __m256 b) {
    _mm256_storeu_ps(to, a);
    _mm256_storeu_ps(to + 8, b);
  }
  STEADYFLUX_AVX2 static void put(BFloat16Bits* to, __m256 a, __m256 b) {
    const __m256i mixed = _mm256_packus_epi32(bfloat16_bits(a), bfloat16_bits(b));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permute4x64_epi64(mixed, 0xd8));
  }
  STEADYFLUX_AVX2 static void put(Half16* to, __m256 a, __m256 b) {
    auto* halves = reinterpret_cast<__m128i*>(to);
    _mm_storeu_si128(halves, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(halves + 1, _mm256_cvtps_ph(b, _MM_FROUND_TO_NEAREST_INT));
  }

  STEADYFLUX_AVX2 static __m128i load8(const void* bytes) {
    return _mm_loadl_epi64(static_cast<const __m128i*>(bytes));
  }

  template <int kPerScale, typename Out>
  STEADYFLUX_AVX2 static void affine(const std::int8_t* codes, int count, const float* scales,
                                     const float* minima, float factor, Out* to) {
    const __m256 f = _mm256_set1_ps(factor);
    for (int i = 0; i < count; i += 16) {
      const __m256 scale = _mm256_set1_ps(scales[i / kPerScale]);
      const __m256 minimum = _mm256_set1_ps(minima[i / kPerScale]);
      __m256 a = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load8(codes + i)));
      __m256 b = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load8(codes + i + 8)));
      a = _mm256_mul_ps(_mm256_sub_ps(_mm256_mul_ps(scale, a), minimum), f);
      b = _mm256_mul_ps(_mm256_sub_ps(_mm256_mul_ps(scale, b), minimum), f);
      put(to + i, a, b);
    }
  }

  template <typename Out>
  STEADYFLUX_AVX2 static void halves(const std::uint16_t* halves, int count, float power,
                                     float scale, float factor, Out* to) {
    const __m256 p = _mm256_set1_ps(power), s = _mm256_set1_ps(scale), f = _mm256_set1_ps(factor);
    for (int i = 0; i < count; i += 16) {
      const auto* from = reinterpret_cast<const __m128i*>(halves + i);
      const __m256 a = _mm256_mul_ps(_mm256_cvtph_ps(_mm_loadu_si128(from)), p);
      const __m256 b = _mm256_mul_ps(_mm256_cvtph_ps(_mm_loadu_si128(from + 1)), p);
      put(to + i, _mm256_mul_ps(_mm256_mul_ps(a, s), f), _mm256_mul_ps(_mm256_mul_ps(b, s), f));
    }
  }

  STEADYFLUX_AVX2 static __m256 look_up(__m128i codes, __m256 low, __m256 high) {
    const __m256i index = _mm256_cvtepu8_epi32(codes);
    // blendv looks at the sign bit, so bit 3 goes there; permutevar looks at bits 0..2 only.
    const __m256 is_high = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index),
                            _mm256_permutevar8x32_ps(high, index), is_high);
  }
  template <typename Out>
  STEADYFLUX_AVX2 static void look_up(const std::uint8_t* codes, int count, const float* table,
                                      float scale, Out* to) {
    const __m256 low = _mm256_loadu_ps(table), high = _mm256_loadu_ps(table + 8);
    const __m256 s = _mm256_set1_ps(scale);
    for (int i = 0; i < count; i += 16) {
      put(to + i, _mm256_mul_ps(look_up(load8(codes + i), low, high), s),
          _mm256_mul_ps(look_up(load8(codes + i + 8), low, high), s));
    }
  }

  STEADYFLUX_AVX2 static void look_up8(const std::uint8_t* codes, int count,
                                       const std::int8_t* table, std::int8_t* to) {
    const __m128i all = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
    for (int i = 0; i < count; i += 16) {
      const __m128i index = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), _mm_shuffle_epi8(all, index));
    }
  }
};

struct Avx512 {
  template <typename Work>
  STEADYFLUX_AVX512 static void run(const Work& work) {
    work.template operator()<Avx512>();
  }

  STEADYFLUX_AVX512 static void put(float* to, __m512 value) { _mm512_storeu_ps(to, value); }
  // AVX512_BF16 has an instruction for this, but it takes denormals for zero.
  STEADYFLUX_AVX512 static void put(BFloat16Bits* to, __m512 value) {
    const __m512i bits = _mm512_castps_si512(value);
    const __m512i high = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, up), 16);
    const __mmask16 is_nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    const __m512i result = _mm512_mask_or_epi32(rounded, is_nan, high, _mm512_set1_epi32(0x40));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(result));
  }
  STEADYFLUX_AVX512 static void put(Half16* to, __m512 value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
  }

  STEADYFLUX_AVX512 static __m128i load16(const void* bytes) {
    return _mm_loadu_si128(static_cast<const __m128i*>(bytes));
  }

  template <int kPerScale, typename Out>
  STEADYFLUX_AVX512 static void affine(const std::int8_t* codes, int count, const float* scales,
                                       const float* minima, float factor, Out* to) {
    const __m512 f = _mm512_set1_ps(factor);
    for (int i = 0; i < count; i += 16) {
      const __m512 scale = _mm512_set1_ps(scales[i / kPerScale]);
      const __m512 minimum = _mm512_set1_ps(minima[i / kPerScale]);
      const __m512 code = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16(codes + i)));
      put(to + i, _mm512_mul_ps(_mm512_sub_ps(_mm512_mul_ps(scale, code), minimum), f));
    }
  }

  template <typename Out>
  STEADYFLUX_AVX512 static void halves(const std::uint16_t* halves, int count, float power,
                                       float scale, float factor, Out* to) {
    const __m512 p = _mm512_set1_ps(power), s = _mm512_set1_ps(scale), f = _mm512_set1_ps(factor);
    for (int i = 0; i < count; i += 16) {
      const __m512 value =
          _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves + i)));
      put(to + i, _mm512_mul_ps(_mm512_mul_ps(_mm512_mul_ps(value, p), s), f));
    }
  }

  template <typename Out>
  STEADYFLUX_AVX512 static void look_up(const std::uint8_t* codes, int count, const float* table,
                                        float scale, Out* to) {
    const __m512 all = _mm512_loadu_ps(table), s = _mm512_set1_ps(scale);
    for (int i = 0; i < count; i += 16) {
      const __m512i index = _mm512_cvtepu8_epi32(load16(codes + i));
      put(to + i, _mm512_mul_ps(_mm512_permutexvar_ps(index, all), s));
    }
  }

  STEADYFLUX_AVX512 static void look_up8(const std::uint8_t* codes, int count,
                                         const std::int8_t* table, std::int8_t* to) {
    const __m128i all = load16(table);
    for (int i = 0; i < count; i += 16) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i),
                       _mm_shuffle_epi8(all, load16(codes + i)));
    }
  }
};
#ifndef __clang__
#pragma GCC diagnostic pop
#endif
#endif

template <typename Work>
void run_with(InstructionSet set, const Work& work) {
#ifdef STEADYFLUX_X86
  if (set == InstructionSet::kAvx512) return Avx512::run(work);
  if (set == InstructionSet::kAvx2) return Avx2::run(work);
#endif
  (void)set;
  Portable::run(work);
}

}  // namespace steadyflux
