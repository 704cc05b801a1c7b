// Loops over rows on the CPU, written for the compiler's vectoriser and compiled for three
// generations of x86-64; which one runs is found at run time. A loop is an object with an
// always-inline operator(), which `with_best_instructions` calls.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <bit>
#include <cmath>
#include <cstdint>

#include "steadyflux/error.h"

#define STEADYFLUX_INLINE inline __attribute__((always_inline))
#define STEADYFLUX_LAMBDA __attribute__((always_inline))
#if defined(__x86_64__) && defined(__GNUC__)
#define STEADYFLUX_X86 1
#define STEADYFLUX_AVX2 __attribute__((target("avx2,fma")))
#define STEADYFLUX_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#endif

namespace steadyflux {

STEADYFLUX_INLINE float load(const float& value) { return value; }
STEADYFLUX_INLINE float load(const c10::BFloat16& value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.x) << 16);
}
STEADYFLUX_INLINE float load(const c10::Half& value) { return static_cast<float>(value); }

STEADYFLUX_INLINE void store(float value, float& to) { to = value; }
STEADYFLUX_INLINE void store(float value, c10::BFloat16& to) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
  to.x = static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}
STEADYFLUX_INLINE void store(float value, c10::Half& to) { to = c10::Half(value); }

// As a tensor of this type keeps it.
template <typename T>
STEADYFLUX_INLINE float rounded(float value) {
  T kept;
  store(value, kept);
  return load(kept);
}

// exp(x) for x from -87 to 88, what is beyond counts as these. Relative error below 1e-6; NaN stays
// NaN.
STEADYFLUX_INLINE float exp_of(float x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: the sum's low bits are the nearest integer
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float shifted = x * 1.44269504f + kMagic;
  const float n = shifted - kMagic;
  float r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.0f / 720;  // Taylor series on |r| <= ln 2 / 2
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const auto exponent = std::bit_cast<std::uint32_t>(shifted) - 0x4b400000u + 127u;
  return p * std::bit_cast<float>(exponent << 23);
}

// Off by 1.5e-7 at most.
STEADYFLUX_INLINE float tanh_of(float x) {
  const float e = exp_of(-2.0f * std::abs(x));
  return std::copysign((1.0f - e) / (1.0f + e), x);
}

#ifdef STEADYFLUX_X86
template <typename Work>
STEADYFLUX_AVX2 void run_avx2(const Work& work) {
  work();
}
template <typename Work>
STEADYFLUX_AVX512 void run_avx512(const Work& work) {
  work();
}
#endif

template <typename Work>
void with_best_instructions(const Work& work) {
#ifdef STEADYFLUX_X86
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    return run_avx512(work);
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return run_avx2(work);
#endif
  work();
}

// body(a value of the tensor's type), for fp32, bf16 and fp16.
template <typename Body>
void for_dtype(const at::Tensor& tensor, const Body& body) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return body(float{});
    case at::kBFloat16:
      return body(at::BFloat16{});
    case at::kHalf:
      return body(at::Half{});
    default:
      throw Error(ErrorKind::kInternal, "models compute in fp32, bf16 or fp16");
  }
}

}  // namespace steadyflux
