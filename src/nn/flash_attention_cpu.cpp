#include "nn/flash_attention_cpu.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numbers>
#include <vector>

#include "config/flash_attention.h"
#include "nn/aligned_buffer.h"
#include "nn/transpose_words.h"

#if defined(__x86_64__) && defined(__GNUC__)
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wuninitialized"  // g++ 12's own intrinsics: _mm512_undefined_ps
#endif
#include <immintrin.h>
#define STEADYFLUX_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#endif

namespace steadyflux {

#ifdef STEADYFLUX_AVX512
namespace {

using BFloat16 = at::BFloat16;

// One head's keys or values in memory: rows of head_dim values, `stride` values apart.
struct Rows {
  const BFloat16* data;
  std::int64_t stride;
  const BFloat16* row(std::int64_t i) const { return data + i * stride; }
};

// Keys for scores = Q K^T: the GEMM's right side is K^T with pairs of rows side by side,
// [head_dim / 2][n_pad][2]. A pair is 32 bits, so this is a transpose of 32-bit words.
void pack_keys(const Rows& keys, std::int64_t n, std::int64_t head_dim, BFloat16* out) {
  const auto n_pad = flash_padded(n), pairs = head_dim / 2;
  auto* words = reinterpret_cast<Word*>(out);
  transpose_words(reinterpret_cast<const Word*>(keys.data), keys.stride / 2, n, pairs, words,
                  n_pad);
  for (std::int64_t pair = 0; n < n_pad && pair < pairs; ++pair) {
    std::fill(words + pair * n_pad + n, words + (pair + 1) * n_pad, 0u);
  }
}

// Values for out = P V: [n_pad / 2][head_dim][2], two rows interleaved; rows that are not there
// are 0. head_dim is a multiple of 32.
STEADYFLUX_AVX512 void pack_values(const Rows& values, std::int64_t n, std::int64_t head_dim,
                                   BFloat16* out) {
  const auto row = [&](std::int64_t j, std::int64_t i) STEADYFLUX_AVX512 {
    return j < n ? _mm512_loadu_si512(values.row(j) + i) : _mm512_setzero_si512();
  };
  // Of two rows of 32 numbers: 0 of the first, 0 of the second, 1 of the first ...
  alignas(64) std::uint16_t order[64];
  for (std::uint16_t i = 0; i < 32; ++i) {
    order[2 * i] = i;
    order[2 * i + 1] = i + 32;
  }
  const __m512i first = _mm512_load_si512(order), second = _mm512_load_si512(order + 32);
  for (std::int64_t j = 0; j < flash_padded(n); j += 2) {
    for (std::int64_t i = 0; i < head_dim; i += 32) {
      const __m512i even = row(j, i), odd = row(j + 1, i);
      auto* to = out + j * head_dim + 2 * i;
      _mm512_storeu_si512(to, _mm512_permutex2var_epi16(even, first, odd));
      _mm512_storeu_si512(to + 32, _mm512_permutex2var_epi16(even, second, odd));
    }
  }
}

// 2^x for x <= 0, relative error below 6e-5, a thirtieth of what rounding to bf16 leaves:
// 2^round(x) times a polynomial.
STEADYFLUX_AVX512 inline __m512 exp2_512(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-150.0f));
  const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_sub_ps(x, n);
  __m512 p = _mm512_set1_ps(9.6181291e-3f);  // Taylor series of exp(r ln 2) on |r| <= 1/2
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.5504109e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.4022651e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.9314718e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, n);
}

STEADYFLUX_AVX512 inline __mmask16 first_lanes(std::int64_t n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffff : n <= 0 ? 0 : (1u << n) - 1);
}

// scores[0..n) * scale + bias * log2(e): a bias is added to what becomes an exponent of e, and from
// here on exponents are of 2.
STEADYFLUX_AVX512 void add_bias(float* scores, const BFloat16* bias, std::int64_t n, float scale) {
  const __m512 vscale = _mm512_set1_ps(scale);
  const __m512 log2e = _mm512_set1_ps(std::numbers::log2e_v<float>);
  for (std::int64_t j = 0; j < n; j += 16) {
    const auto lanes = first_lanes(n - j);
    const __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, bias + j));
    const __m512 added = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)), log2e);
    const __m512 score = _mm512_maskz_loadu_ps(lanes, scores + j);
    _mm512_mask_storeu_ps(scores + j, lanes, _mm512_fmadd_ps(score, vscale, added));
  }
}

// One row of the running softmax: scores[0..n) become probabilities (bf16, zero up to n_pad)
// relative to the largest score so far; what was summed before is rescaled to it. `scale` > 0 makes
// scores exponents of 2, as `largest` is.
STEADYFLUX_AVX512 void softmax_row(const float* scores, std::int64_t n, std::int64_t n_pad,
                                   float scale, BFloat16* probabilities, float& largest, float& sum,
                                   float* out, std::int64_t head_dim) {
  const auto whole = n / 16 * 16;
  __m512 vmax = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  for (std::int64_t j = 0; j < whole; j += 16) {
    vmax = _mm512_max_ps(vmax, _mm512_loadu_ps(scores + j));
  }
  if (whole < n) {
    vmax = _mm512_mask_max_ps(vmax, first_lanes(n - whole), vmax, _mm512_loadu_ps(scores + whole));
  }
  const float now = std::max(largest, _mm512_reduce_max_ps(vmax) * scale);
  const __m512 vnow = _mm512_set1_ps(now), vscale = _mm512_set1_ps(scale);
  __m512 vsum = _mm512_setzero_ps();
  const auto store = [&](std::int64_t j, __m512 p) STEADYFLUX_AVX512 {
    vsum = _mm512_add_ps(vsum, p);
    const __m256bh half = _mm512_cvtneps_pbh(p);
    std::memcpy(probabilities + j, &half, sizeof half);
  };
  for (std::int64_t j = 0; j < whole; j += 16) {
    store(j, exp2_512(_mm512_fmsub_ps(_mm512_loadu_ps(scores + j), vscale, vnow)));
  }
  for (auto j = whole; j < n_pad; j += 16) {
    const __m512 x = _mm512_fmsub_ps(_mm512_loadu_ps(scores + j), vscale, vnow);
    store(j, _mm512_maskz_mov_ps(first_lanes(n - j), exp2_512(x)));
  }
  const float before = std::exp2(largest - now);  // 0 for the first block
  sum = sum * before + _mm512_reduce_add_ps(vsum);
  largest = now;
  if (before == 1.0f) return;
  const __m512 factor = _mm512_set1_ps(before);
  for (std::int64_t i = 0; i < head_dim; i += 16) {
    _mm512_storeu_ps(out + i, _mm512_mul_ps(_mm512_loadu_ps(out + i), factor));
  }
}

STEADYFLUX_AVX512 void store_row(const float* out, float sum, BFloat16* to, std::int64_t head_dim) {
  const __m512 factor = _mm512_set1_ps(1.0f / sum);
  for (std::int64_t i = 0; i < head_dim; i += 16) {
    const __m256bh half = _mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_loadu_ps(out + i), factor));
    std::memcpy(to + i, &half, sizeof half);
  }
}

void gemm(std::int64_t m, std::int64_t n, std::int64_t k, const BFloat16* a, std::int64_t ld_a,
          const BFloat16* b, std::int64_t ld_b, float* c, std::int64_t ld_c, bool add) {
  at::native::cpublas::brgemm(m, n, k, ld_a, ld_b, ld_c, add, a, b, c, /*is_vnni=*/true);
}

// Keys and values of one head, packed block by block.
class PackedHead {
 public:
  PackedHead(std::int64_t n, std::int64_t dim)
      : count(n), head_dim(dim), keys_(flash_padded(n) * dim), values_(flash_padded(n) * dim) {}

  void pack_block(std::int64_t begin, const Rows& k, const Rows& v) {
    const auto n = std::min(kFlashKeys, count - begin);
    pack_keys({k.row(begin), k.stride}, n, head_dim, keys_.data() + begin * head_dim);
    pack_values({v.row(begin), v.stride}, n, head_dim, values_.data() + begin * head_dim);
  }
  void pack(const Rows& k, const Rows& v) {
    for (std::int64_t begin = 0; begin < count; begin += kFlashKeys) pack_block(begin, k, v);
  }

  const BFloat16* keys(std::int64_t begin) const { return keys_.data() + begin * head_dim; }
  const BFloat16* values(std::int64_t begin) const { return values_.data() + begin * head_dim; }

  const std::int64_t count, head_dim;

 private:
  AlignedBuffer<BFloat16> keys_, values_;
};

// Room for one block of queries.
struct QueryBlock {
  explicit QueryBlock(std::int64_t head_dim)
      : scores(kFlashQueries * kFlashKeys),
        probabilities(kFlashQueries * kFlashKeys),
        out(kFlashQueries * head_dim) {}
  AlignedBuffer<float> scores;
  AlignedBuffer<BFloat16> probabilities;
  AlignedBuffer<float> out;
  std::array<float, kFlashQueries> largest, sum;
};

// m <= kFlashQueries queries of one head against all its keys; writes rows of `to`. `bias` has a
// row for each query, or no data.
void attend(const Rows& q, const Rows& bias, std::int64_t m, const PackedHead& head, float scale,
            QueryBlock& work, BFloat16* to, std::int64_t to_stride) {
  const auto keys = head.count, head_dim = head.head_dim;
  work.largest.fill(-std::numeric_limits<float>::infinity());
  work.sum.fill(0.0f);
  std::fill_n(work.out.data(), m * head_dim, 0.0f);
  for (std::int64_t begin = 0; begin < keys; begin += kFlashKeys) {
    const auto n = std::min(kFlashKeys, keys - begin);
    const auto n_pad = flash_padded(n);
    gemm(m, n_pad, head_dim, q.data, q.stride, head.keys(begin), n_pad, work.scores.data(), n_pad,
         false);
    for (std::int64_t i = 0; i < m; ++i) {
      const auto row = static_cast<std::size_t>(i);
      auto* scores = work.scores.data() + i * n_pad;
      if (bias.data) add_bias(scores, bias.row(i) + begin, n, scale);
      softmax_row(scores, n, n_pad, bias.data ? 1.0f : scale, work.probabilities.data() + i * n_pad,
                  work.largest[row], work.sum[row], work.out.data() + i * head_dim, head_dim);
    }
    gemm(m, head_dim, n_pad, work.probabilities.data(), n_pad, head.values(begin), head_dim,
         work.out.data(), head_dim, true);
  }
  for (std::int64_t i = 0; i < m; ++i) {
    store_row(work.out.data() + i * head_dim, work.sum[static_cast<std::size_t>(i)],
              to + i * to_stride, head_dim);
  }
}

// The GEMM piece is there on this CPU and multiplies: tried once with a product known beforehand.
bool probe_gemm() {
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq") ||
      !__builtin_cpu_supports("avx512bf16")) {
    return false;
  }
  try {
    const std::vector<BFloat16> a(32 * 32, BFloat16(1.0f)), b(32 * 32, BFloat16(2.0f));
    std::vector<float> c(32 * 32, 0.0f);
    gemm(32, 32, 32, a.data(), 32, b.data(), 32, c.data(), 32, false);
    at::native::cpublas::brgemm_release();
    return std::all_of(c.begin(), c.end(), [](float value) { return value == 64.0f; });
  } catch (const c10::Error&) {
    return false;
  }
}

// Pairs of numbers are read as words of 32 bits, which lie where such words do.
bool rows_fit(const at::Tensor& x) {
  return x.device().is_cpu() && x.scalar_type() == at::kBFloat16 && x.dim() == 4 &&
         x.stride(3) == 1 && x.stride(2) % 2 == 0 && x.stride(1) % 2 == 0 && x.stride(0) % 2 == 0 &&
         x.storage_offset() % 2 == 0;
}

bool bias_fits(const at::Tensor& bias, const at::Tensor& q, const at::Tensor& k) {
  return bias.device().is_cpu() && bias.scalar_type() == at::kBFloat16 && bias.dim() == 4 &&
         bias.stride(3) == 1 && (bias.size(0) == 1 || bias.size(0) == q.size(0)) &&
         bias.sizes().slice(1) == at::IntArrayRef({q.size(1), q.size(2), k.size(2)});
}

}  // namespace

bool flash_attention_cpu_usable(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                const at::Tensor& bias) {
  if (!rows_fit(q) || !rows_fit(k) || !rows_fit(v)) return false;
  if (bias.defined() && !bias_fits(bias, q, k)) return false;
  if (q.size(3) % 32 != 0 || k.size(2) == 0) return false;
  static const bool usable = probe_gemm();
  return usable;
}

at::Tensor flash_attention_cpu(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               double scale, const at::Tensor& bias) {
  const auto batch = q.size(0), heads = q.size(1), queries = q.size(2), head_dim = q.size(3);
  const auto keys = k.size(2), tasks = batch * heads;
  auto result = at::empty({batch, queries, heads * head_dim}, q.options());
  const auto rows = [heads](const at::Tensor& x, std::int64_t task) {
    return Rows{
        x.const_data_ptr<BFloat16>() + task / heads * x.stride(0) + task % heads * x.stride(1),
        x.stride(2)};
  };
  const auto biases = bias.defined() ? bias.expand({batch, -1, -1, -1}) : bias;
  const auto bias_rows = [&](std::int64_t task, std::int64_t begin) {
    if (!biases.defined()) return Rows{nullptr, 0};
    const auto all = rows(biases, task);
    return Rows{all.row(begin), all.stride};
  };
  auto* out = result.mutable_data_ptr<BFloat16>();
  const auto attend_block = [&](std::int64_t task, std::int64_t begin, const PackedHead& head,
                                QueryBlock& work) {
    const auto query_rows = rows(q, task);
    attend({query_rows.row(begin), query_rows.stride}, bias_rows(task, begin),
           std::min(kFlashQueries, queries - begin), head,
           static_cast<float>(scale * std::numbers::log2e), work,
           out + (task / heads * queries + begin) * heads * head_dim + task % heads * head_dim,
           heads * head_dim);
  };
  // As many heads as all threads take in equal parts: each thread has its own.
  const auto alone = tasks - tasks % at::get_num_threads();
  at::parallel_for(0, alone, 1, [&](std::int64_t first, std::int64_t last) {
    PackedHead head(keys, head_dim);
    QueryBlock work(head_dim);
    for (std::int64_t task = first; task < last; ++task) {
      head.pack(rows(k, task), rows(v, task));
      for (std::int64_t begin = 0; begin < queries; begin += kFlashQueries) {
        attend_block(task, begin, head, work);
      }
    }
    at::native::cpublas::brgemm_release();
  });
  if (alone == tasks) return result;
  // All threads share what is left, one head after the other.
  PackedHead head(keys, head_dim);
  const auto blocks = [](std::int64_t n, std::int64_t of) { return (n + of - 1) / of; };
  for (std::int64_t task = alone; task < tasks; ++task) {
    at::parallel_for(0, blocks(keys, kFlashKeys), 1, [&](std::int64_t first, std::int64_t last) {
      for (auto block = first; block < last; ++block) {
        head.pack_block(block * kFlashKeys, rows(k, task), rows(v, task));
      }
    });
    at::parallel_for(0, blocks(queries, kFlashQueries), 1,
                     [&](std::int64_t first, std::int64_t last) {
                       QueryBlock work(head_dim);
                       for (auto block = first; block < last; ++block) {
                         attend_block(task, block * kFlashQueries, head, work);
                       }
                       at::native::cpublas::brgemm_release();
                     });
  }
  return result;
}

#else

bool flash_attention_cpu_usable(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                const at::Tensor&) {
  return false;
}

at::Tensor flash_attention_cpu(const at::Tensor&, const at::Tensor&, const at::Tensor&, double,
                               const at::Tensor&) {
  return {};
}

#endif

}  // namespace steadyflux
