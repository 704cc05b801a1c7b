#include "nn/int8_linear_cpu.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "config/int8_linear.h"
#include "nn/aligned_buffer.h"
#include "nn/transpose_words.h"
#include "nn/vector_loops.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kLanes = 32;
constexpr std::int64_t kPackedInputs = 256;  // rounded and turned over at once, in the first cache
constexpr float kLargestWeight = 127.0f;
constexpr float kLargestStep = 255.0f;
constexpr float kLeastRange = 1e-30f;  // narrower ones count as 0, so that all below is finite

// To the nearest integer, ties to even, for |value| < 2^22: what is added has no room for more.
STEADYFLUX_INLINE float to_integer(float value) {
  constexpr float kNoFraction = 12582912.0f;  // 1.5 * 2^23
  return (value + kNoFraction) - kNoFraction;
}

// The least and the largest of n values and 0; NaN, both, where any value is not finite.
struct Range {
  float least = 0, largest = 0;
};

template <typename T>
STEADYFLUX_INLINE Range range_of(const T* __restrict values, std::int64_t n) {
  float least[kLanes] = {}, largest[kLanes] = {}, faults[kLanes] = {};
  const auto add = [&](std::int64_t lane, float value) STEADYFLUX_LAMBDA {
    least[lane] = value < least[lane] ? value : least[lane];
    largest[lane] = value > largest[lane] ? value : largest[lane];
    faults[lane] += value * 0.0f;
  };
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) add(lane, load(values[i + lane]));
  }
  for (std::int64_t lane = 0; i < n; ++i, ++lane) add(lane, load(values[i]));
  Range range;
  float fault = 0;
  for (std::int64_t lane = 0; lane < kLanes; ++lane) {
    range.least = std::min(range.least, least[lane]);
    range.largest = std::max(range.largest, largest[lane]);
    fault += faults[lane];
  }
  return {range.least + fault, range.largest + fault};
}

template <typename T>
struct RoundRows {
  const T* x;
  std::int64_t x_stride;
  std::uint8_t* values;
  std::int64_t values_stride;
  float* scale;
  std::int32_t* zero;
  std::int64_t rows, n;

  STEADYFLUX_INLINE void operator()() const {
    // Bytes that are written could be this object's, for all a compiler knows.
    const auto length = n;
    for (std::int64_t r = 0; r < rows; ++r) {
      const T* __restrict in = x + r * x_stride;
      std::uint8_t* __restrict to = values + r * values_stride;
      const auto range = range_of(in, length);
      const float width = range.largest - range.least;
      if (!(width > kLeastRange)) {
        scale[r] = width;  // NaN, or next to nothing
        zero[r] = 0;
        std::memset(to, 0, static_cast<std::size_t>(length));
        continue;
      }
      const float step = width / kLargestStep, per_step = 1.0f / step;
      const float offset = to_integer(-range.least * per_step);
      scale[r] = step;
      zero[r] = static_cast<std::int32_t>(offset);
      for (std::int64_t i = 0; i < length; ++i) {
        const float value = to_integer(load(in[i]) * per_step) + offset;
        const float above = value > 0.0f ? value : 0.0f;
        const float capped = above < kLargestStep ? above : kLargestStep;
        to[i] = static_cast<std::uint8_t>(static_cast<std::int32_t>(capped));
      }
    }
  }
};

// Rows [first, first + kInt8Outputs) of a weight as the product takes them: groups of four inputs
// of all outputs side by side, [in / 4][kInt8Outputs][4]. Outputs that are not there are 0.
struct PackedOutputs {
  explicit PackedOutputs(std::int64_t in_features) : values(in_features * kInt8Outputs) {}
  AlignedBuffer<std::int8_t> values;
  float scale[kInt8Outputs];
  std::int32_t sum[kInt8Outputs];  // of each output's values
};

template <typename T>
struct PackOutputs {
  const T* weight;
  std::int64_t stride;
  std::int64_t count, n;  // outputs, inputs
  PackedOutputs& to;

  STEADYFLUX_INLINE void operator()() const {
    float per_step[kInt8Outputs];
    for (std::int64_t o = 0; o < kInt8Outputs; ++o) {
      const auto range = o < count ? range_of(weight + o * stride, n) : Range{};
      const float largest = std::max(-range.least, range.largest);
      to.scale[o] = largest / kLargestWeight;
      per_step[o] = largest > kLeastRange ? 1.0f / to.scale[o] : 0.0f;
      to.sum[o] = 0;
    }
    alignas(64) std::int8_t part[kInt8Outputs * kPackedInputs];
    for (std::int64_t begin = 0; begin < n; begin += kPackedInputs) {
      const auto width = std::min(kPackedInputs, n - begin);
      for (std::int64_t o = 0; o < kInt8Outputs; ++o) {
        to.sum[o] += round_part(o, begin, width, per_step[o], part + o * kPackedInputs);
      }
      transpose_words(reinterpret_cast<const Word*>(part), kPackedInputs / kInt8Group, kInt8Outputs,
                      width / kInt8Group,
                      reinterpret_cast<Word*>(to.values.data() + begin * kInt8Outputs),
                      kInt8Outputs);
    }
  }

  // -> the sum of what was rounded.
  STEADYFLUX_INLINE std::int32_t round_part(std::int64_t output, std::int64_t begin,
                                            std::int64_t width, float per_step,
                                            std::int8_t* __restrict out) const {
    if (per_step == 0.0f || output >= count) {
      std::memset(out, 0, static_cast<std::size_t>(width));
      return 0;
    }
    const T* __restrict in = weight + output * stride + begin;
    std::int32_t sum = 0;
    for (std::int64_t i = 0; i < width; ++i) {
      const auto value = static_cast<std::int32_t>(to_integer(load(in[i]) * per_step));
      out[i] = static_cast<std::int8_t>(value);
      sum += value;
    }
    return sum;
  }
};

// Outputs of a weight with their sums [rows, kInt8Outputs].
struct Panel {
  Panel(std::int64_t rows, std::int64_t in_features)
      : packed(in_features), sums(rows * kInt8Outputs) {}
  PackedOutputs packed;
  AlignedBuffer<std::int32_t> sums;
  std::int64_t first = 0, count = 0;
};

// Sums [rows, kInt8Outputs] back to numbers.
template <typename T>
struct ScaleSums {
  const std::int32_t* sums;
  const float* row_scale;
  const std::int32_t* row_zero;
  const PackedOutputs& weight;
  const T* bias;  // or null
  T* out;
  std::int64_t out_stride;
  std::int64_t rows, count;

  STEADYFLUX_INLINE void operator()() const {
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int32_t* __restrict from = sums + r * kInt8Outputs;
      T* __restrict to = out + r * out_stride;
      const float* __restrict scale = weight.scale;
      const std::int32_t* __restrict of_zero = weight.sum;
      const float step = row_scale[r];
      const std::int32_t zero = row_zero[r];
      for (std::int64_t o = 0; o < count; ++o) {
        const auto exact = static_cast<float>(from[o] - zero * of_zero[o]);
        store(exact * (step * scale[o]) + (bias != nullptr ? load(bias[o]) : 0.0f), to[o]);
      }
    }
  }
};

// c [m, kInt8Outputs] = a b, or += a b: a [m, k] with rows `ld_a` bytes apart, b packed
// [k / 4][kInt8Outputs][4].
struct Product {
  std::int64_t m, k;
  const std::uint8_t* a;
  std::int64_t ld_a;
  const std::int8_t* b;
  std::int32_t* c;
  bool add;
};
using Multiply = void (*)(const Product& product);

struct MultiplyByLoop {
  Product p;

  STEADYFLUX_INLINE void operator()() const {
    for (std::int64_t r = 0; r < p.m; ++r) {
      std::int32_t sums[kInt8Outputs] = {};
      std::int32_t* to = p.c + r * kInt8Outputs;
      if (p.add) std::memcpy(sums, to, sizeof sums);
      const std::uint8_t* __restrict row = p.a + r * p.ld_a;
      for (std::int64_t i = 0; i < p.k; i += kInt8Group) {
        const std::int8_t* __restrict group = p.b + i * kInt8Outputs;
        for (std::int64_t o = 0; o < kInt8Outputs; ++o) {
          const std::int8_t* __restrict w = group + o * kInt8Group;
          sums[o] += row[i] * w[0] + row[i + 1] * w[1] + row[i + 2] * w[2] + row[i + 3] * w[3];
        }
      }
      std::memcpy(to, sums, sizeof sums);
    }
  }
};

void multiply_by_loop(const Product& product) { with_best_instructions(MultiplyByLoop{product}); }

void multiply_by_brgemm(const Product& p) {
  at::native::cpublas::brgemm(p.m, kInt8Outputs, p.k, p.ld_a, kInt8Outputs, kInt8Outputs, p.add,
                              p.a, reinterpret_cast<const signed char*>(p.b), p.c,
                              /*is_vnni=*/true);
}

// libtorch's product is there on this CPU and right: tried once, with the largest values, which
// instructions that add up in 16 bits get wrong.
bool probe_brgemm() {
#ifdef STEADYFLUX_X86
  if (!__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl")) {
    return false;
  }
  constexpr std::int64_t kRows = 16, kInputs = 64;
  try {
    const std::vector<std::uint8_t> a(kRows * kInputs, 255);
    const std::vector<std::int8_t> b(kInputs * kInt8Outputs, -127);
    std::vector<std::int32_t> c(kRows * kInt8Outputs, 1);
    multiply_by_brgemm({kRows, kInputs, a.data(), kInputs, b.data(), c.data(), false});
    at::native::cpublas::brgemm_release();
    return std::all_of(c.begin(), c.end(),
                       [](std::int32_t sum) { return sum == 255 * -127 * kInputs; });
  } catch (const c10::Error&) {
    return false;
  }
#else
  return false;
#endif
}

template <typename T>
void multiply_all(const Int8Rows& x, const at::Tensor& weight, const at::Tensor& bias,
                  at::Tensor out, Multiply multiply) {
  const auto rows = x.values.size(0), in_features = x.values.size(1), outputs = weight.size(0);
  const auto* weights = weight.const_data_ptr<T>();
  const auto* offsets = bias.defined() ? bias.const_data_ptr<T>() : nullptr;
  const auto* values = x.values.const_data_ptr<std::uint8_t>();
  const auto ld = x.values.stride(0);
  const auto* scales = x.scale.const_data_ptr<float>();
  const auto* zeros = x.zero.const_data_ptr<std::int32_t>();
  auto* results = out.mutable_data_ptr<T>();
  const auto panels = (outputs + kInt8Outputs - 1) / kInt8Outputs;
  at::parallel_for(0, panels, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<Panel> room;
    for (std::int64_t i = 0; i < std::min(kInt8Panels, end - begin); ++i) {
      room.emplace_back(rows, in_features);
    }
    for (auto next = begin; next < end;) {
      const std::span together(room.data(), std::min(room.size(), std::size_t(end - next)));
      for (auto& panel : together) {
        panel.first = next++ * kInt8Outputs;
        panel.count = std::min(kInt8Outputs, outputs - panel.first);
        with_best_instructions(PackOutputs<T>{weights + panel.first * weight.stride(0),
                                              weight.stride(0), panel.count, in_features,
                                              panel.packed});
      }
      // Values of a block of rows come from the second cache for all panels but the first.
      for (std::int64_t k = 0; k < in_features; k += kInt8Inputs) {
        for (std::int64_t row = 0; row < rows; row += kInt8Rows) {
          for (auto& panel : together) {
            multiply({std::min(kInt8Rows, rows - row), std::min(kInt8Inputs, in_features - k),
                      values + row * ld + k, ld, panel.packed.values.data() + k * kInt8Outputs,
                      panel.sums.data() + row * kInt8Outputs, k > 0});
          }
        }
      }
      for (auto& panel : together) {
        with_best_instructions(ScaleSums<T>{panel.sums.data(), scales, zeros, panel.packed,
                                            offsets != nullptr ? offsets + panel.first : nullptr,
                                            results + panel.first, outputs, rows, panel.count});
      }
    }
    at::native::cpublas::brgemm_release();
  });
}

at::Tensor int8_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                       Multiply multiply) {
  TORCH_INTERNAL_ASSERT(fits_int8_linear(weight.size(1)));
  const auto rows = int8_rows(x.reshape({-1, weight.size(1)}));
  auto sizes = x.sizes().vec();
  sizes.back() = weight.size(0);
  const auto out = at::empty(sizes, x.options());
  const auto w = weight.stride(1) == 1 ? weight : weight.contiguous();
  for_dtype(x, [&](auto kind) {
    multiply_all<decltype(kind)>(rows, w, bias.defined() ? bias.contiguous() : bias,
                                 out.view({-1, weight.size(0)}), multiply);
  });
  return out;
}

}  // namespace

bool cpu_multiplies_int8() {
  static const bool multiplies = probe_brgemm();
  return multiplies;
}

Int8Rows int8_rows(const at::Tensor& x) {
  const auto in = x.stride(1) == 1 ? x : x.contiguous();
  const auto rows = in.size(0), n = in.size(1);
  const auto options = at::TensorOptions(at::kCPU);
  // Rows that lie a multiple of the cache's stride apart would push each other out of it.
  Int8Rows result{at::empty({rows, n + kInt8RowGap}, options.dtype(at::kByte)).narrow(1, 0, n),
                  at::empty({rows}, options.dtype(at::kFloat)),
                  at::empty({rows}, options.dtype(at::kInt))};
  for_dtype(in, [&](auto kind) {
    using T = decltype(kind);
    const auto* from = in.const_data_ptr<T>();
    auto* values = result.values.mutable_data_ptr<std::uint8_t>();
    const auto ld = result.values.stride(0);
    auto* scale = result.scale.mutable_data_ptr<float>();
    auto* zero = result.zero.mutable_data_ptr<std::int32_t>();
    at::parallel_for(0, rows, 8, [&](std::int64_t begin, std::int64_t end) {
      with_best_instructions(RoundRows<T>{from + begin * in.stride(0), in.stride(0),
                                          values + begin * ld, ld, scale + begin, zero + begin,
                                          end - begin, n});
    });
  });
  return result;
}

at::Tensor int8_linear_cpu(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return int8_linear(x, weight, bias,
                     cpu_multiplies_int8() ? multiply_by_brgemm : multiply_by_loop);
}

at::Tensor int8_linear_by_loop(const at::Tensor& x, const at::Tensor& weight,
                               const at::Tensor& bias) {
  return int8_linear(x, weight, bias, multiply_by_loop);
}

}  // namespace steadyflux
