#include "nn/flash_attention_cpu.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "base/cpu.h"
#include "nn/vector_loops.h"

#ifdef STEADYFLUX_X86
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wuninitialized"  // g++ 12's own intrinsics: _mm512_undefined_ps
#endif
#include <immintrin.h>
#define STEADYFLUX_AVX512_BF16 \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#endif

namespace steadyflux {

#ifdef STEADYFLUX_X86
namespace {

using BFloat16 = at::BFloat16;

constexpr std::int64_t kQueryBlock = 64;
constexpr std::int64_t kKeyBlock = 256;
constexpr std::int64_t kPad = 32;  // key blocks are padded to this; the padding gets weight 0
constexpr std::int64_t kMostFp32HeadDim = 256;  // keys and values of a head are packed in fp32
constexpr float kNone = -std::numeric_limits<float>::infinity();

std::int64_t padded(std::int64_t n) { return (n + kPad - 1) / kPad * kPad; }

// One head's queries, keys or values in memory: rows of head_dim values, `stride` values apart.
template <typename T>
struct Rows {
  const T* data;
  std::int64_t stride;
  const T* row(std::int64_t i) const { return data + i * stride; }
  Rows from(std::int64_t i) const { return {row(i), stride}; }
};

// The running softmax of a block of queries.
struct Running {
  Running(std::int64_t head_dim)
      : out(static_cast<std::size_t>(kQueryBlock * head_dim)),
        largest(kQueryBlock),
        sum(kQueryBlock) {}
  void clear() {
    std::fill(largest.begin(), largest.end(), kNone);
    std::fill(sum.begin(), sum.end(), 0.0f);
    std::fill(out.begin(), out.end(), 0.0f);
  }
  std::vector<float> out;      // [queries, head_dim]: sums of values so far
  std::vector<float> largest;  // score of each query so far
  std::vector<float> sum;      // of its probabilities, relative to that
};

// How a block of scores becomes probabilities.
struct Scores {
  const float* scores;  // [m, n_pad]
  std::int64_t m, n, n_pad, head_dim;
  float scale;
};

// Products in bf16: keys and values lie as instructions for pairs of bf16 take them.
struct Bf16Products {
  using Packed = BFloat16;
  using Input = BFloat16;

  // Keys for scores = Q K^T: the GEMM's right side is K^T with pairs of rows side by side,
  // [head_dim / 2][n_pad][2]. A pair is 32 bits, so this is a transpose of 32-bit words.
  static void pack_keys(const Rows<BFloat16>& keys, std::int64_t n, std::int64_t head_dim,
                        BFloat16* out) {
    const auto n_pad = padded(n);
    const auto pairs = head_dim / 2;
    auto* words = reinterpret_cast<std::uint32_t*>(out);
    for (std::int64_t begin = 0; begin < n_pad; begin += 16) {
      const auto end = std::min(begin + 16, n_pad);
      for (std::int64_t pair = 0; pair < pairs; ++pair) {
        for (std::int64_t j = begin; j < end; ++j) {
          std::uint32_t word = 0;
          if (j < n) std::memcpy(&word, keys.row(j) + 2 * pair, sizeof word);
          words[pair * n_pad + j] = word;
        }
      }
    }
  }

  // Values for out = P V: [n_pad / 2][head_dim][2], two rows interleaved.
  static void pack_values(const Rows<BFloat16>& values, std::int64_t n, std::int64_t head_dim,
                          BFloat16* out) {
    const auto n_pad = padded(n);
    for (std::int64_t j = 0; j < n_pad; j += 2) {
      const auto* even = j < n ? values.row(j) : nullptr;
      const auto* odd = j + 1 < n ? values.row(j + 1) : nullptr;
      auto* to = out + j * head_dim;
      for (std::int64_t i = 0; i < head_dim; ++i) {
        to[2 * i] = even ? even[i] : BFloat16(0.0f);
        to[2 * i + 1] = odd ? odd[i] : BFloat16(0.0f);
      }
    }
  }

  static Rows<BFloat16> queries(const Rows<BFloat16>& rows, std::int64_t, std::int64_t,
                                std::vector<BFloat16>&) {
    return rows;
  }

  static void gemm(std::int64_t m, std::int64_t n, std::int64_t k, const BFloat16* a,
                   std::int64_t ld_a, const BFloat16* b, std::int64_t ld_b, float* c,
                   std::int64_t ld_c, bool add) {
    at::native::cpublas::brgemm(m, n, k, ld_a, ld_b, ld_c, add, a, b, c, /*is_vnni=*/true);
  }

  static void softmax(const Scores& s, BFloat16* probabilities, Running& running);
  static void store(const Running& running, std::int64_t m, std::int64_t head_dim, BFloat16* to,
                    std::int64_t to_stride);
};

// exp(x) for x <= 0: 2^round(x log2 e) times a polynomial, relative error below 1e-6.
STEADYFLUX_AVX512_BF16 inline __m512 exp512(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-104.0f));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)),
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.0f / 720);  // Taylor series on |r| <= ln 2 / 2
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, n);
}

// One row of the running softmax: scores[0..n) become probabilities (bf16, zero up to n_pad)
// relative to the largest score so far; what was summed before is rescaled to it.
STEADYFLUX_AVX512_BF16 void softmax_row(const float* scores, std::int64_t n, std::int64_t n_pad,
                                        float scale, BFloat16* probabilities, float& largest,
                                        float& sum, float* out, std::int64_t head_dim) {
  const __m512 vscale = _mm512_set1_ps(scale);
  const __m512 none = _mm512_set1_ps(kNone);
  __m512 vmax = none;
  for (std::int64_t j = 0; j < n; j += 16) {
    const auto mask = static_cast<__mmask16>(n - j >= 16 ? 0xffff : (1u << (n - j)) - 1);
    vmax = _mm512_max_ps(vmax, _mm512_mask_mul_ps(none, mask, _mm512_loadu_ps(scores + j), vscale));
  }
  const float now = std::max(largest, _mm512_reduce_max_ps(vmax));
  const __m512 vnow = _mm512_set1_ps(now);
  __m512 vsum = _mm512_setzero_ps();
  for (std::int64_t j = 0; j < n_pad; j += 16) {
    const auto rest = n - j;
    const auto mask =
        static_cast<__mmask16>(rest >= 16 ? 0xffff : (rest <= 0 ? 0 : (1u << rest) - 1));
    const __m512 x = _mm512_fmsub_ps(_mm512_loadu_ps(scores + j), vscale, vnow);
    const __m512 p = _mm512_maskz_mov_ps(mask, exp512(x));
    vsum = _mm512_add_ps(vsum, p);
    const __m256bh half = _mm512_cvtneps_pbh(p);
    std::memcpy(probabilities + j, &half, sizeof half);
  }
  const float before = std::exp(largest - now);  // 0 for the first block
  sum = sum * before + _mm512_reduce_add_ps(vsum);
  largest = now;
  if (before == 1.0f) return;
  const __m512 factor = _mm512_set1_ps(before);
  for (std::int64_t i = 0; i < head_dim; i += 16) {
    _mm512_storeu_ps(out + i, _mm512_mul_ps(_mm512_loadu_ps(out + i), factor));
  }
}

STEADYFLUX_AVX512_BF16 void store_row(const float* out, float sum, BFloat16* to,
                                      std::int64_t head_dim) {
  const __m512 factor = _mm512_set1_ps(1.0f / sum);
  for (std::int64_t i = 0; i < head_dim; i += 16) {
    const __m256bh half = _mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_loadu_ps(out + i), factor));
    std::memcpy(to + i, &half, sizeof half);
  }
}

void Bf16Products::softmax(const Scores& s, BFloat16* probabilities, Running& running) {
  for (std::int64_t i = 0; i < s.m; ++i) {
    const auto row = static_cast<std::size_t>(i);
    softmax_row(s.scores + i * s.n_pad, s.n, s.n_pad, s.scale, probabilities + i * s.n_pad,
                running.largest[row], running.sum[row], running.out.data() + i * s.head_dim,
                s.head_dim);
  }
}

void Bf16Products::store(const Running& running, std::int64_t m, std::int64_t head_dim,
                         BFloat16* to, std::int64_t to_stride) {
  for (std::int64_t i = 0; i < m; ++i) {
    store_row(running.out.data() + i * head_dim, running.sum[static_cast<std::size_t>(i)],
              to + i * to_stride, head_dim);
  }
}

constexpr std::int64_t kLanes = 32;
static_assert(kPad % kLanes == 0);

struct Fp32Softmax {
  const Scores& s;
  float* probabilities;
  Running& running;

  STEADYFLUX_INLINE void operator()() const {
    for (std::int64_t i = 0; i < s.m; ++i) {
      row(s.scores + i * s.n_pad, probabilities + i * s.n_pad, static_cast<std::size_t>(i));
    }
  }

  STEADYFLUX_INLINE void row(const float* __restrict scores, float* __restrict to,
                             std::size_t index) const {
    float lanes[kLanes];
    for (float& lane : lanes) lane = kNone;
    for (std::int64_t j = 0; j < s.n_pad; j += kLanes) {
      for (std::int64_t lane = 0; lane < kLanes; ++lane) {
        const float score = j + lane < s.n ? scores[j + lane] * s.scale : kNone;
        lanes[lane] = score > lanes[lane] ? score : lanes[lane];
      }
    }
    const float before = running.largest[index];
    float now = before;
    for (const float lane : lanes) now = std::max(now, lane);
    for (float& lane : lanes) lane = 0;
    for (std::int64_t j = 0; j < s.n_pad; j += kLanes) {
      for (std::int64_t lane = 0; lane < kLanes; ++lane) {
        const float p = exp_of(scores[j + lane] * s.scale - now);
        to[j + lane] = j + lane < s.n ? p : 0.0f;
        lanes[lane] += to[j + lane];
      }
    }
    float added = 0;
    for (const float lane : lanes) added += lane;
    const float kept = std::exp(before - now);  // 0 for the first block
    running.sum[index] = running.sum[index] * kept + added;
    running.largest[index] = now;
    if (kept == 1.0f) return;
    float* __restrict out = running.out.data() + static_cast<std::int64_t>(index) * s.head_dim;
    for (std::int64_t d = 0; d < s.head_dim; ++d) out[d] *= kept;
  }
};

template <typename T>
struct StoreRows {
  const Running& running;
  std::int64_t m, head_dim;
  T* to;
  std::int64_t to_stride;

  STEADYFLUX_INLINE void operator()() const {
    for (std::int64_t i = 0; i < m; ++i) {
      const float* __restrict from = running.out.data() + i * head_dim;
      const float factor = 1.0f / running.sum[static_cast<std::size_t>(i)];
      T* __restrict row = to + i * to_stride;
      for (std::int64_t d = 0; d < head_dim; ++d) steadyflux::store(from[d] * factor, row[d]);
    }
  }
};

template <typename T>
struct PackFp32Keys {
  const Rows<T>& keys;
  std::int64_t n, head_dim;
  float* out;  // [head_dim][n_pad]

  STEADYFLUX_INLINE void operator()() const {
    const auto n_pad = padded(n);
    for (std::int64_t begin = 0; begin < n_pad; begin += 16) {
      for (std::int64_t d = 0; d < head_dim; ++d) {
        for (std::int64_t j = begin; j < begin + 16; ++j) {
          out[d * n_pad + j] = j < n ? load(keys.row(j)[d]) : 0.0f;
        }
      }
    }
  }
};

template <typename T>
struct WidenRows {
  const Rows<T>& rows;
  std::int64_t n, head_dim;
  float* out;  // [n][head_dim]

  STEADYFLUX_INLINE void operator()() const {
    for (std::int64_t i = 0; i < n; ++i) {
      const T* __restrict from = rows.row(i);
      float* __restrict to = out + i * head_dim;
      for (std::int64_t d = 0; d < head_dim; ++d) to[d] = load(from[d]);
    }
  }
};

// Products in fp32, of values of any dtype.
template <typename T>
struct Fp32Products {
  using Packed = float;
  using Input = T;

  static void pack_keys(const Rows<T>& keys, std::int64_t n, std::int64_t head_dim, float* out) {
    with_best_instructions(PackFp32Keys<T>{keys, n, head_dim, out});
  }
  static void pack_values(const Rows<T>& values, std::int64_t n, std::int64_t head_dim,
                          float* out) {
    with_best_instructions(WidenRows<T>{values, n, head_dim, out});
    std::fill(out + n * head_dim, out + padded(n) * head_dim, 0.0f);
  }
  static Rows<float> queries(const Rows<T>& rows, std::int64_t m, std::int64_t head_dim,
                             std::vector<float>& room) {
    with_best_instructions(WidenRows<T>{rows, m, head_dim, room.data()});
    return {room.data(), head_dim};
  }
  static void gemm(std::int64_t m, std::int64_t n, std::int64_t k, const float* a,
                   std::int64_t ld_a, const float* b, std::int64_t ld_b, float* c,
                   std::int64_t ld_c, bool add) {
    at::native::cpublas::brgemm(m, n, k, ld_a, ld_b, ld_c, add, a, b, c, /*is_vnni=*/false);
  }
  static void softmax(const Scores& s, float* probabilities, Running& running) {
    with_best_instructions(Fp32Softmax{s, probabilities, running});
  }
  static void store(const Running& running, std::int64_t m, std::int64_t head_dim, T* to,
                    std::int64_t to_stride) {
    with_best_instructions(StoreRows<T>{running, m, head_dim, to, to_stride});
  }
};

// Packed keys and values of one head, block by block, and room for one query block.
template <typename Packed>
struct Workspace {
  Workspace(std::int64_t keys, std::int64_t head_dim)
      : packed_keys(static_cast<std::size_t>(padded(keys) * head_dim)),
        packed_values(static_cast<std::size_t>(padded(keys) * head_dim)),
        queries(static_cast<std::size_t>(kQueryBlock * head_dim)),
        scores(static_cast<std::size_t>(kQueryBlock * kKeyBlock)),
        probabilities(static_cast<std::size_t>(kQueryBlock * kKeyBlock)),
        running(head_dim) {}
  std::vector<Packed> packed_keys, packed_values, queries;
  std::vector<float> scores;
  std::vector<Packed> probabilities;
  Running running;
};

template <typename Products, typename T = typename Products::Input>
struct Attention {
  using Work = Workspace<typename Products::Packed>;

  std::int64_t keys, head_dim;
  float scale;

  void pack_head(const Rows<T>& k, const Rows<T>& v, Work& work) const {
    for (std::int64_t begin = 0; begin < keys; begin += kKeyBlock) {
      const auto n = std::min(kKeyBlock, keys - begin);
      Products::pack_keys(k.from(begin), n, head_dim, work.packed_keys.data() + begin * head_dim);
      Products::pack_values(v.from(begin), n, head_dim,
                            work.packed_values.data() + begin * head_dim);
    }
  }

  // m <= kQueryBlock queries of one head against all its keys; writes rows of `to`.
  void attend(const Rows<T>& rows, std::int64_t m, Work& work, T* to,
              std::int64_t to_stride) const {
    work.running.clear();
    const auto q = Products::queries(rows, m, head_dim, work.queries);
    for (std::int64_t begin = 0; begin < keys; begin += kKeyBlock) {
      const auto n = std::min(kKeyBlock, keys - begin), n_pad = padded(n);
      Products::gemm(m, n_pad, head_dim, q.data, q.stride,
                     work.packed_keys.data() + begin * head_dim, n_pad, work.scores.data(), n_pad,
                     false);
      Products::softmax({work.scores.data(), m, n, n_pad, head_dim, scale},
                        work.probabilities.data(), work.running);
      Products::gemm(m, head_dim, n_pad, work.probabilities.data(), n_pad,
                     work.packed_values.data() + begin * head_dim, head_dim,
                     work.running.out.data(), head_dim, true);
    }
    Products::store(work.running, m, head_dim, to, to_stride);
  }
};

// Whether libtorch's product is there on this CPU and multiplies: tried with one known beforehand.
template <typename Products>
bool product_works() {
  using Packed = typename Products::Packed;
  try {
    const std::vector<Packed> a(32 * 32, Packed(1.0f)), b(32 * 32, Packed(2.0f));
    std::vector<float> c(32 * 32, 0.0f);
    Products::gemm(32, 32, 32, a.data(), 32, b.data(), 32, c.data(), 32, false);
    at::native::cpublas::brgemm_release();
    return std::all_of(c.begin(), c.end(), [](float value) { return value == 64.0f; });
  } catch (const c10::Error&) {
    return false;
  }
}

bool bf16_products_work() {
  static const bool work =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bf16") && product_works<Bf16Products>();
  return work;
}

bool fp32_products_work() {
  static const bool work = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                           product_works<Fp32Products<float>>();
  return work;
}

bool takes_bf16_products(const at::Tensor& q) {
  return q.scalar_type() == at::kBFloat16 && bf16_products_work();
}

bool rows_contiguous(const at::Tensor& x) {
  return x.device().is_cpu() && x.dim() == 4 && x.stride(3) == 1;
}

template <typename Products>
at::Tensor attend_all(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale) {
  using T = typename Products::Input;
  const auto batch = q.size(0), heads = q.size(1), queries = q.size(2), head_dim = q.size(3);
  const Attention<Products> attention{k.size(2), head_dim, static_cast<float>(scale)};
  auto result = at::empty({batch, queries, heads * head_dim}, q.options());
  const auto rows = [](const at::Tensor& x, std::int64_t b, std::int64_t h) {
    return Rows<T>{x.const_data_ptr<T>() + b * x.stride(0) + h * x.stride(1), x.stride(2)};
  };
  // A task is one head, or a part of its queries where there are more threads than heads.
  const auto threads = static_cast<std::int64_t>(at::get_num_threads());
  const auto blocks = (queries + kQueryBlock - 1) / kQueryBlock;
  const auto parts =
      std::clamp((threads + batch * heads - 1) / (batch * heads), std::int64_t{1}, blocks);
  const auto part_size = (blocks + parts - 1) / parts * kQueryBlock;
  auto* out = result.mutable_data_ptr<T>();
  at::parallel_for(0, batch * heads * parts, 1, [&](std::int64_t first, std::int64_t last) {
    typename Attention<Products>::Work work(attention.keys, head_dim);
    for (std::int64_t task = first; task < last; ++task) {
      const auto b = task / (heads * parts), h = task / parts % heads, part = task % parts;
      const auto query_rows = rows(q, b, h);
      attention.pack_head(rows(k, b, h), rows(v, b, h), work);
      const auto end = std::min(queries, (part + 1) * part_size);
      for (auto begin = part * part_size; begin < end; begin += kQueryBlock) {
        attention.attend(query_rows.from(begin), std::min(kQueryBlock, end - begin), work,
                         out + (b * queries + begin) * heads * head_dim + h * head_dim,
                         heads * head_dim);
      }
    }
    at::native::cpublas::brgemm_release();
  });
  return result;
}

}  // namespace

bool flash_attention_cpu_usable(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  if (!rows_contiguous(q) || !rows_contiguous(k) || !rows_contiguous(v)) return false;
  if (!at::isFloatingType(q.scalar_type()) || q.scalar_type() == at::kDouble) return false;
  if (q.size(3) % 32 != 0 || k.size(2) == 0) return false;
  if (takes_bf16_products(q)) return true;
  if (q.scalar_type() == at::kHalf && cpu_multiplies_fp16()) return false;
  return q.size(3) <= kMostFp32HeadDim && fp32_products_work();
}

at::Tensor flash_attention_cpu(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               double scale) {
  if (takes_bf16_products(q)) return attend_all<Bf16Products>(q, k, v, scale);
  at::Tensor result;
  for_dtype(q,
            [&](auto kind) { result = attend_all<Fp32Products<decltype(kind)>>(q, k, v, scale); });
  return result;
}

#else

bool flash_attention_cpu_usable(const at::Tensor&, const at::Tensor&, const at::Tensor&) {
  return false;
}

at::Tensor flash_attention_cpu(const at::Tensor&, const at::Tensor&, const at::Tensor&, double) {
  return {};
}

#endif

}  // namespace steadyflux
