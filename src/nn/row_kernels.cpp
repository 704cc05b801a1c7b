#include "nn/row_kernels.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/record_function.h>

#include <cmath>
#include <type_traits>

#include "nn/vector_loops.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kLanes = 32;         // sums that grow side by side, in vector registers
constexpr std::int64_t kRowsOfAThread = 8;  // fewer are not worth another thread

// Sum of value(i) for i in [0, n).
template <typename Value>
STEADYFLUX_INLINE float sum_of(std::int64_t n, const Value& value) {
  float lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += value(i + lane);
  }
  for (std::int64_t lane = 0; i < n; ++i, ++lane) lanes[lane] += value(i);
  for (std::int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (std::int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

template <typename T>
struct ModulatedNorm {
  const T* x;
  std::int64_t x_stride;
  const T *scale_plus_1, *shift;
  T* out;
  std::int64_t rows, dim;
  float eps;

  STEADYFLUX_INLINE void operator()() const {
    const auto n = static_cast<float>(dim);
    for (std::int64_t r = 0; r < rows; ++r) {
      const T* __restrict in = x + r * x_stride;
      const T* __restrict factor = scale_plus_1;
      const T* __restrict offset = shift;
      T* __restrict to = out + r * dim;
      const float mean =
          sum_of(dim, [in](std::int64_t i) STEADYFLUX_LAMBDA { return load(in[i]); }) / n;
      const float variance = sum_of(dim,
                                    [in, mean](std::int64_t i) STEADYFLUX_LAMBDA {
                                      const float off = load(in[i]) - mean;
                                      return off * off;
                                    }) /
                             n;
      const float rstd = 1.0f / std::sqrt(variance + eps);
      for (std::int64_t i = 0; i < dim; ++i) {
        const float normed = rounded<T>((load(in[i]) - mean) * rstd);
        store(rounded<T>(normed * load(factor[i])) + load(offset[i]), to[i]);
      }
    }
  }
};

template <typename T>
struct AddGated {
  T* residual;
  std::int64_t residual_stride;
  const T* x;
  std::int64_t x_stride;
  const T* gate;
  std::int64_t rows, dim;

  STEADYFLUX_INLINE void operator()() const {
    for (std::int64_t r = 0; r < rows; ++r) {
      T* __restrict to = residual + r * residual_stride;
      const T* __restrict from = x + r * x_stride;
      const T* __restrict factor = gate;
      for (std::int64_t i = 0; i < dim; ++i) {
        store(load(to[i]) + rounded<T>(load(from[i]) * load(factor[i])), to[i]);
      }
    }
  }
};

template <typename T>
struct NormAndRotate {
  const T* x;
  std::int64_t x_stride;
  const T* weight;
  const float *cos, *sin;
  T* out;
  std::int64_t rows, heads, head_dim;
  float eps;

  STEADYFLUX_INLINE void operator()() const {
    const auto n = static_cast<float>(head_dim);
    for (std::int64_t r = 0; r < rows; ++r) {
      const float* __restrict c = cos + r * head_dim;
      const float* __restrict s = sin + r * head_dim;
      const T* __restrict w = weight;
      for (std::int64_t head = 0; head < heads; ++head) {
        const T* __restrict in = x + r * x_stride + head * head_dim;
        T* __restrict to = out + (r * heads + head) * head_dim;
        const float squares = sum_of(
            head_dim, [in](std::int64_t i) STEADYFLUX_LAMBDA { return load(in[i]) * load(in[i]); });
        const float rms = 1.0f / std::sqrt(squares / n + eps);
        for (std::int64_t i = 0; i < head_dim; i += 2) {
          const float real = rounded<T>(load(in[i]) * rms * load(w[i]));
          const float imag = rounded<T>(load(in[i + 1]) * rms * load(w[i + 1]));
          store(real * c[i] - imag * s[i], to[i]);
          store(imag * c[i + 1] + real * s[i + 1], to[i + 1]);
        }
      }
    }
  }
};

template <typename T>
struct RmsNorm {
  const T* x;
  std::int64_t x_stride;
  const T* weight;
  T* out;
  std::int64_t rows, dim;
  float eps;

  STEADYFLUX_INLINE void operator()() const {
    for (std::int64_t r = 0; r < rows; ++r) {
      const T* __restrict in = x + r * x_stride;
      const T* __restrict w = weight;
      T* __restrict to = out + r * dim;
      const float squares =
          sum_of(dim, [in](std::int64_t i) STEADYFLUX_LAMBDA { return load(in[i]) * load(in[i]); });
      const float rms = 1.0f / std::sqrt(squares / static_cast<float>(dim) + eps);
      for (std::int64_t i = 0; i < dim; ++i) {
        store(rounded<T>(load(in[i]) * rms) * load(w[i]), to[i]);
      }
    }
  }
};

constexpr float kGeluCubic = 0.044715f;
constexpr float kGeluScale = 0.797884560802865f;  // sqrt(2 / pi)

STEADYFLUX_INLINE float gelu_of(float x) {
  const float inner = kGeluScale * (x + kGeluCubic * x * x * x);
  return 0.5f * x * (1.0f + tanh_of(inner));
}

// Values beside each other are written where they are read (`x` is not looked at), or elsewhere.
template <typename T, bool kInPlace>
struct Gelu {
  const T* x;
  std::int64_t x_stride;
  T* out;
  std::int64_t out_stride;
  std::int64_t rows, dim;

  STEADYFLUX_INLINE void operator()() const {
    for (std::int64_t r = 0; r < rows; ++r) {
      T* __restrict to = out + r * out_stride;
      if constexpr (kInPlace) {
        for (std::int64_t i = 0; i < dim; ++i) store(gelu_of(load(to[i])), to[i]);
      } else {
        const T* __restrict from = x + r * x_stride;
        for (std::int64_t i = 0; i < dim; ++i) store(gelu_of(load(from[i])), to[i]);
      }
    }
  }
};

template <typename T>
struct GatedGelu {
  T* gate;
  std::int64_t gate_stride;
  const T* up;
  std::int64_t up_stride;
  std::int64_t rows, dim;
  TanhGelu gelu;

  STEADYFLUX_INLINE void operator()() const {
    if (gelu == TanhGelu::kOneOperation) {
      all_rows([](float x) STEADYFLUX_LAMBDA { return gelu_of(x); });
    } else {
      all_rows([](float x) STEADYFLUX_LAMBDA {
        const float cube = rounded<T>(rounded<T>(rounded<T>(x * x) * x) * kGeluCubic);
        const float inner = rounded<T>(rounded<T>(x + cube) * kGeluScale);
        const float sum = rounded<T>(rounded<T>(tanh_of(inner)) + 1.0f);
        return rounded<T>(x * 0.5f) * sum;
      });
    }
  }

  template <typename Gelu>
  STEADYFLUX_INLINE void all_rows(const Gelu& of) const {
    for (std::int64_t r = 0; r < rows; ++r) {
      T* __restrict to = gate + r * gate_stride;
      const T* __restrict factor = up + r * up_stride;
      for (std::int64_t i = 0; i < dim; ++i) {
        store(rounded<T>(of(load(to[i]))) * load(factor[i]), to[i]);
      }
    }
  }
};

// Runs kernel(a value of the dtype, begin, end), an object for rows [begin, end), over all rows.
template <typename Kernel>
void for_rows(const at::Tensor& rows, const Kernel& kernel) {
  for_dtype(rows, [&](auto value) {
    at::parallel_for(0, rows.size(0), kRowsOfAThread, [&](std::int64_t begin, std::int64_t end) {
      with_best_instructions(kernel(value, begin, end));
    });
  });
}

template <typename T>
const T* row_of(const at::Tensor& x, std::int64_t row) {
  return x.const_data_ptr<T>() + row * x.stride(0);
}
template <typename T>
T* row_to_write(const at::Tensor& x, std::int64_t row) {
  return x.mutable_data_ptr<T>() + row * x.stride(0);
}

}  // namespace

bool has_row_kernels(const at::Tensor& rows) {
  const auto dtype = rows.scalar_type();
  return rows.device().is_cpu() && rows.dim() == 2 && rows.stride(1) == 1 &&
         (dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf);
}

at::Tensor modulated_layer_norm_cpu(const at::Tensor& x, const at::Tensor& shift,
                                    const at::Tensor& scale, double eps) {
  RECORD_FUNCTION("steadyflux::modulated_layer_norm", {});
  const auto dim = x.size(1);
  auto result = at::empty({x.size(0), dim}, x.options());
  const auto factor = scale + 1;
  for_rows(x, [&](auto value, std::int64_t begin, std::int64_t end) {
    using T = decltype(value);
    return ModulatedNorm<T>{row_of<T>(x, begin),
                            x.stride(0),
                            factor.const_data_ptr<T>(),
                            shift.const_data_ptr<T>(),
                            row_to_write<T>(result, begin),
                            end - begin,
                            dim,
                            static_cast<float>(eps)};
  });
  return result;
}

void add_gated_cpu_(const at::Tensor& residual, const at::Tensor& x, const at::Tensor& gate) {
  RECORD_FUNCTION("steadyflux::add_gated_", {});
  for_rows(x, [&](auto value, std::int64_t begin, std::int64_t end) {
    using T = decltype(value);
    return AddGated<T>{row_to_write<T>(residual, begin),
                       residual.stride(0),
                       row_of<T>(x, begin),
                       x.stride(0),
                       gate.const_data_ptr<T>(),
                       end - begin,
                       x.size(1)};
  });
}

at::Tensor rms_norm_cpu(const at::Tensor& x, const at::Tensor& weight, double eps) {
  RECORD_FUNCTION("steadyflux::rms_norm", {});
  const auto dim = x.size(1);
  auto result = at::empty({x.size(0), dim}, x.options());
  for_rows(x, [&](auto value, std::int64_t begin, std::int64_t end) {
    using T = decltype(value);
    return RmsNorm<T>{row_of<T>(x, begin),
                      x.stride(0),
                      weight.const_data_ptr<T>(),
                      row_to_write<T>(result, begin),
                      end - begin,
                      dim,
                      static_cast<float>(eps)};
  });
  return result;
}

void gelu_cpu(const at::Tensor& x, const at::Tensor& out) {
  RECORD_FUNCTION("steadyflux::gelu", {});
  const auto run = [&](auto in_place) {
    for_rows(x, [&](auto value, std::int64_t begin, std::int64_t end) {
      using T = decltype(value);
      return Gelu<T, decltype(in_place)::value>{
          row_of<T>(x, begin), x.stride(0), row_to_write<T>(out, begin),
          out.stride(0),       end - begin, x.size(1)};
    });
  };
  if (x.const_data_ptr() == out.const_data_ptr()) return run(std::true_type());
  run(std::false_type());
}

void gated_gelu_cpu_(const at::Tensor& gate, const at::Tensor& up, TanhGelu gelu) {
  RECORD_FUNCTION("steadyflux::gated_gelu_", {});
  for_rows(gate, [&](auto value, std::int64_t begin, std::int64_t end) {
    using T = decltype(value);
    return GatedGelu<T>{row_to_write<T>(gate, begin),
                        gate.stride(0),
                        row_of<T>(up, begin),
                        up.stride(0),
                        end - begin,
                        gate.size(1),
                        gelu};
  });
}

void normed_and_rotated_cpu(const at::Tensor& x, const at::Tensor& weight, double eps,
                            const RotaryEmbedding& emb, const at::Tensor& out) {
  RECORD_FUNCTION("steadyflux::normed_and_rotated", {});
  const auto heads = out.size(1), head_dim = out.size(2);
  for_rows(x, [&](auto value, std::int64_t begin, std::int64_t end) {
    using T = decltype(value);
    return NormAndRotate<T>{row_of<T>(x, begin),
                            x.stride(0),
                            weight.const_data_ptr<T>(),
                            row_of<float>(emb.cos, begin),
                            row_of<float>(emb.sin, begin),
                            row_to_write<T>(out, begin),
                            end - begin,
                            heads,
                            head_dim,
                            static_cast<float>(eps)};
  });
}

}  // namespace steadyflux
