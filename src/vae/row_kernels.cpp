#include "vae/row_kernels.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "nn/vector_loops.h"

namespace steadyflux {
namespace {

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

constexpr std::int64_t kRun = 8;     // positions whose sums are taken in fp32
constexpr std::int64_t kLanes = 32;  // channels at once, a number that the compiler knows

// kChannels of the channels at kRun positions.
template <bool kAdd, std::int64_t kChannels, typename T>
STEADYFLUX_INLINE void store_run(const T* __restrict in, std::int64_t channels, T* __restrict out,
                                 double* __restrict sums, double* __restrict squares) {
  float sum[kChannels] = {}, square[kChannels] = {};
  for (std::int64_t k = 0; k < kRun; ++k, in += channels, out += channels) {
    for (std::int64_t c = 0; c < kChannels; ++c) {
      const float value = stored<kAdd>(in[c], out[c]);
      sum[c] += value;
      square[c] += value * value;
    }
  }
  for (std::int64_t c = 0; c < kChannels; ++c) {
    sums[c] += static_cast<double>(sum[c]);
    squares[c] += static_cast<double>(square[c]);
  }
}

// One row; `totals` holds `channels` sums, then as many sums of squares.
template <bool kAdd, typename T>
STEADYFLUX_INLINE void store_row(const T* __restrict in, std::int64_t positions,
                                 std::int64_t channels, T* __restrict out,
                                 double* __restrict totals) {
  double* __restrict squares = totals + channels;
  std::int64_t p = 0;
  for (; p + kRun <= positions; p += kRun, in += kRun * channels, out += kRun * channels) {
    std::int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      store_run<kAdd, kLanes>(in + c, channels, out + c, totals + c, squares + c);
    }
    for (; c < channels; ++c) {
      store_run<kAdd, 1>(in + c, channels, out + c, totals + c, squares + c);
    }
  }
  for (; p < positions; ++p, in += channels, out += channels) {
    for (std::int64_t c = 0; c < channels; ++c) {
      const float value = stored<kAdd>(in[c], out[c]);
      totals[c] += static_cast<double>(value);
      squares[c] += static_cast<double>(value * value);
    }
  }
}

template <typename T>
struct Normalise {
  const T* in;
  const float *scale, *shift;
  bool silu;
  std::int64_t positions, channels;
  T* out;

  STEADYFLUX_INLINE void operator()() const {
    normalise(in, scale, shift, silu, positions, channels, out);
  }
};

template <typename T>
struct StoreRow {
  const T* in;
  bool add;
  std::int64_t positions, channels;
  T* out;
  double* totals;

  STEADYFLUX_INLINE void operator()() const {
    if (add) {
      store_row<true>(in, positions, channels, out, totals);
    } else {
      store_row<false>(in, positions, channels, out, totals);
    }
  }
};

}  // namespace

void normalise_rows_cpu(const at::Tensor& in, const at::Tensor& scale, const at::Tensor& shift,
                        bool silu, const at::Tensor& out) {
  const auto width = in.size(1), channels = in.size(2), row = width * channels;
  for_dtype(in, [&](auto value) {
    using T = decltype(value);
    const T* from = in.const_data_ptr<T>();
    T* to = out.mutable_data_ptr<T>();
    const float* scales = scale.const_data_ptr<float>();
    const float* shifts = shift.const_data_ptr<float>();
    at::parallel_for(0, in.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
      with_best_instructions(Normalise<T>{from + begin * row, scales, shifts, silu,
                                          (end - begin) * width, channels, to + begin * row});
    });
  });
}

void store_rows_cpu(const at::Tensor& in, bool add, std::int64_t groups, const at::Tensor& out,
                    double* sums) {
  const auto width = in.size(1), channels = in.size(2), row = width * channels;
  const auto group = channels / groups;
  for_dtype(in, [&](auto value) {
    using T = decltype(value);
    const T* from = in.const_data_ptr<T>();
    T* to = out.mutable_data_ptr<T>();
    at::parallel_for(0, in.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
      std::vector<double> totals(static_cast<std::size_t>(2 * channels));
      for (auto r = begin; r < end; ++r) {
        std::fill(totals.begin(), totals.end(), 0.0);
        with_best_instructions(
            StoreRow<T>{from + r * row, add, width, channels, to + r * row, totals.data()});
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
