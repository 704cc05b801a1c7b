// What blocks do between products, in one pass (nn/row_kernels.h) and by libtorch's operators, in
// turn: milliseconds, medians, and the ratio. Use: row_kernels_bench [ROWS DIM [THREADS [ROUNDS]]]
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <vector>

#include "nn/row_kernels.h"

using namespace steadyflux;

namespace {

constexpr double kEps = 1e-6;
constexpr std::int64_t kHeadDim = 128;

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

template <typename F>
double milliseconds(const F& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

template <typename OnePass, typename Operators>
void compare(const char* what, at::ScalarType dtype, int rounds, const OnePass& one_pass,
             const Operators& operators) {
  std::vector<double> ours, theirs, ratios;
  for (int i = 0; i <= rounds; ++i) {
    const double a = milliseconds(one_pass), b = milliseconds(operators);
    if (i == 0) continue;  // warms up
    ours.push_back(a);
    theirs.push_back(b);
    ratios.push_back(a / b);
  }
  fmt::print("| {} | {} | {:.2f} | {:.2f} | {:.2f} |\n", what, at::toString(dtype), median(ours),
             median(theirs), median(ratios));
}

}  // namespace

int main(int argc, char** argv) {
  const c10::InferenceMode inference_mode;
  const std::int64_t rows = argc > 2 ? std::atoll(argv[1]) : 2048;
  const std::int64_t dim = argc > 2 ? std::atoll(argv[2]) : 3072;
  if (argc > 3) at::set_num_threads(std::atoi(argv[3]));
  const int rounds = argc > 4 ? std::atoi(argv[4]) : 15;
  fmt::print("{} x {}, {} thread(s)\n", rows, dim, at::get_num_threads());
  fmt::print("| | dtype | one pass, ms | operators, ms | ratio |\n|---|---|---|---|---|\n");
  for (const auto dtype : {at::kBFloat16, at::kFloat}) {
    const auto x = at::randn({rows, dim}).to(dtype);
    const auto shift = at::randn({dim}).to(dtype), scale = at::randn({dim}).to(dtype);
    compare(
        "layer norm, modulated", dtype, rounds,
        [&] { modulated_layer_norm_cpu(x, shift, scale, kEps); },
        [&] { at::layer_norm(x, {dim}, {}, {}, kEps).mul_(scale + 1).add_(shift); });
    auto residual = at::zeros({rows, dim}, x.options());
    auto product = x.clone();
    const auto gate = scale.clamp(0.5, 1);  // `product` is multiplied by it again and again
    compare(
        "residual + gate * x", dtype, rounds, [&] { add_gated_cpu_(residual, product, gate); },
        [&] { residual.add_(product.mul_(gate)); });
    const auto weight = at::randn({kHeadDim}).to(dtype);
    const auto angles = at::randn({rows, kHeadDim / 2}).repeat_interleave(2, 1);
    const RotaryEmbedding emb{angles.cos(), angles.sin()};
    auto heads = at::empty({1, rows, dim / kHeadDim, kHeadDim}, x.options());
    compare(
        "rms norm, rotated", dtype, rounds,
        [&] { normed_and_rotated_cpu(x, weight, kEps, emb, heads[0]); },
        [&] {
          heads[0].copy_(at::rms_norm(x.unflatten(1, {-1, kHeadDim}), {kHeadDim}, weight, kEps));
          apply_rotary_emb_(heads, emb);
        });
  }
  return 0;
}
