#include "vae/row_kernels.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "steadyflux/error.h"

// The loops are written for the compiler's vectoriser and compiled for three generations of x86-64;
// which one runs is found at run time.
#define STEADYFLUX_INLINE inline __attribute__((always_inline))
#if defined(__x86_64__) && defined(__GNUC__)
#define STEADYFLUX_X86 1
#define STEADYFLUX_AVX2 __attribute__((target("avx2,fma")))
#define STEADYFLUX_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#endif

namespace steadyflux {
namespace {

STEADYFLUX_INLINE float load(const float& value) { return value; }
STEADYFLUX_INLINE float load(const at::BFloat16& value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.x) << 16);
}
STEADYFLUX_INLINE float load(const at::Half& value) { return static_cast<float>(value); }

STEADYFLUX_INLINE void store(float value, float& to) { to = value; }
STEADYFLUX_INLINE void store(float value, at::BFloat16& to) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
  to.x = static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}
STEADYFLUX_INLINE void store(float value, at::Half& to) { to = at::Half(value); }

// Relative error below 1e-6; NaN stays NaN.
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

template <typename T>
STEADYFLUX_INLINE void normalise(const T* __restrict in, const float* __restrict scale,
                                 const float* __restrict shift, bool silu, std::int64_t positions,
                                 std::int64_t channels, T* __restrict out) {
  for (std::int64_t p = 0; p < positions; ++p, in += channels, out += channels) {
    if (silu) {
      for (std::int64_t c = 0; c < channels; ++c) {
        T rounded;
        store(load(in[c]) * scale[c] + shift[c], rounded);
        const float value = load(rounded);
        store(value / (1.0f + exp_of(-value)), out[c]);
      }
    } else {
      for (std::int64_t c = 0; c < channels; ++c) {
        store(load(in[c]) * scale[c] + shift[c], out[c]);
      }
    }
  }
}

template <bool kAdd, typename T>
STEADYFLUX_INLINE float stored(const T& in, T& out) {
  if constexpr (kAdd) {
    store(load(out) + load(in), out);
  } else {
    out = in;
  }
  return load(out);
}

// One row; `totals` holds `channels` sums, then as many sums of squares.
template <bool kAdd, typename T>
STEADYFLUX_INLINE void store_row(const T* __restrict in, std::int64_t positions,
                                 std::int64_t channels, T* __restrict out,
                                 double* __restrict totals) {
  constexpr std::int64_t kRun = 8;
  double* __restrict squares = totals + channels;
  std::int64_t p = 0;
  for (; p + kRun <= positions; p += kRun) {
    const T* __restrict from = in + p * channels;
    T* __restrict to = out + p * channels;
    for (std::int64_t c = 0; c < channels; ++c) {
      float sum = 0, square = 0;
#if defined(__clang__)
#pragma clang loop unroll(full)
#else
#pragma GCC unroll 8
#endif
      for (std::int64_t k = 0; k < kRun; ++k) {
        const float value = stored<kAdd>(from[k * channels + c], to[k * channels + c]);
        sum += value;
        square += value * value;
      }
      totals[c] += static_cast<double>(sum);
      squares[c] += static_cast<double>(square);
    }
  }
  for (; p < positions; ++p) {
    for (std::int64_t c = 0; c < channels; ++c) {
      const float value = stored<kAdd>(in[p * channels + c], out[p * channels + c]);
      totals[c] += static_cast<double>(value);
      squares[c] += static_cast<double>(value * value);
    }
  }
}

template <typename T>
using Normalise = void (*)(const T*, const float*, const float*, bool, std::int64_t, std::int64_t,
                           T*);
template <typename T>
using StoreRow = void (*)(const T*, std::int64_t, std::int64_t, T*, double*);

template <typename T>
struct Kernels {
  Normalise<T> normalise;
  StoreRow<T> store, add;
};

#define STEADYFLUX_VARIANT(NAME, TARGET)                                                          \
  template <typename T>                                                                           \
  struct NAME {                                                                                   \
    TARGET static void normalise_(const T* in, const float* scale, const float* shift, bool silu, \
                                  std::int64_t positions, std::int64_t channels, T* out) {        \
      normalise(in, scale, shift, silu, positions, channels, out);                                \
    }                                                                                             \
    TARGET static void store_(const T* in, std::int64_t positions, std::int64_t channels, T* out, \
                              double* totals) {                                                   \
      store_row<false>(in, positions, channels, out, totals);                                     \
    }                                                                                             \
    TARGET static void add_(const T* in, std::int64_t positions, std::int64_t channels, T* out,   \
                            double* totals) {                                                     \
      store_row<true>(in, positions, channels, out, totals);                                      \
    }                                                                                             \
    static constexpr Kernels<T> kernels() { return {&normalise_, &store_, &add_}; }               \
  };

STEADYFLUX_VARIANT(Plain, )
#ifdef STEADYFLUX_X86
STEADYFLUX_VARIANT(Avx2, STEADYFLUX_AVX2)
STEADYFLUX_VARIANT(Avx512, STEADYFLUX_AVX512)
#endif

template <typename T>
Kernels<T> pick_kernels() {
#ifdef STEADYFLUX_X86
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    return Avx512<T>::kernels();
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Avx2<T>::kernels();
#endif
  return Plain<T>::kernels();
}

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
      throw Error(ErrorKind::kInternal, "the VAE computes in fp32, bf16 or fp16");
  }
}

}  // namespace

void normalise_rows_cpu(const at::Tensor& in, const at::Tensor& scale, const at::Tensor& shift,
                        bool silu, const at::Tensor& out) {
  const auto width = in.size(1), channels = in.size(2), row = width * channels;
  for_dtype(in, [&](auto value) {
    using T = decltype(value);
    const auto kernels = pick_kernels<T>();
    const T* from = in.const_data_ptr<T>();
    T* to = out.mutable_data_ptr<T>();
    const float* scales = scale.const_data_ptr<float>();
    const float* shifts = shift.const_data_ptr<float>();
    at::parallel_for(0, in.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
      kernels.normalise(from + begin * row, scales, shifts, silu, (end - begin) * width, channels,
                        to + begin * row);
    });
  });
}

void store_rows_cpu(const at::Tensor& in, bool add, std::int64_t groups, const at::Tensor& out,
                    double* sums) {
  const auto width = in.size(1), channels = in.size(2), row = width * channels;
  const auto group = channels / groups;
  for_dtype(in, [&](auto value) {
    using T = decltype(value);
    const auto kernels = pick_kernels<T>();
    const auto kernel = add ? kernels.add : kernels.store;
    const T* from = in.const_data_ptr<T>();
    T* to = out.mutable_data_ptr<T>();
    at::parallel_for(0, in.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
      std::vector<double> totals(static_cast<std::size_t>(2 * channels));
      for (auto r = begin; r < end; ++r) {
        std::fill(totals.begin(), totals.end(), 0.0);
        kernel(from + r * row, width, channels, to + r * row, totals.data());
        for (std::int64_t g = 0; g < groups; ++g) {
          for (std::int64_t moment = 0; moment < 2; ++moment) {
            const double* first = totals.data() + moment * channels + g * group;
            double sum = 0;
            for (std::int64_t c = 0; c < group; ++c) sum += first[c];
            sums[(r * groups + g) * 2 + moment] = sum;
          }
        }
      }
    });
  });
}

}  // namespace steadyflux
