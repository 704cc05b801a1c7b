#include "vae/group_moments.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "config/vae_bands.h"
#include "vae/row_kernels.h"

namespace steadyflux {
namespace {

// Mean and variance of every group as [groups] fp64 -> factors of every channel.
NormFactors factors(const GroupNorm& norm, const at::Tensor& mean, const at::Tensor& var,
                    double eps) {
  const auto per_group = norm.weight.numel() / mean.numel();
  const auto of_channels = [&](const at::Tensor& x) { return x.repeat_interleave(per_group); };
  const auto scale = norm.weight.to(at::kDouble) * of_channels((var + eps).rsqrt());
  const auto shift = norm.bias.to(at::kDouble) - of_channels(mean) * scale;
  return {scale.to(at::kFloat), shift.to(at::kFloat)};
}

}  // namespace

void GroupMoments::store(const at::Tensor& in, bool add, std::int64_t first,
                         const at::Tensor& out) {
  if (out.device().is_cpu()) {
    sums_.resize(static_cast<std::size_t>(height_ * groups_ * 2));
    store_rows_cpu(in.contiguous(), add, groups_, out, sums_.data() + first * groups_ * 2);
    return;
  }
  if (add) {
    out.add_(in);
  } else if (!out.is_same(in)) {
    out.copy_(in);
  }
  take(out);
}

void GroupMoments::take(const at::Tensor& rows) {
  const auto step = vae_moment_rows(width_, channels_);
  for (std::int64_t begin = 0; begin < rows.size(0); begin += step) {
    const auto count = std::min(step, rows.size(0) - begin);
    const auto values =
        rows.narrow(0, begin, count).view({count * width_, groups_, -1}).to(at::kFloat);
    auto [var, mean] = at::var_mean(values, at::IntArrayRef{0, 2}, /*correction=*/at::Scalar(0));
    vars_.push_back(std::move(var));
    means_.push_back(std::move(mean));
    counts_.push_back(static_cast<double>(count * width_ * (channels_ / groups_)));
  }
}

NormFactors GroupMoments::finish(const GroupNorm& norm, double eps) {
  const auto total = static_cast<double>(height_ * width_ * (channels_ / groups_));
  at::Tensor mean, var;  // [groups] fp64
  if (means_.empty()) {
    mean = at::zeros({groups_}, at::kDouble);
    var = at::zeros({groups_}, at::kDouble);
    for (std::int64_t g = 0; g < groups_; ++g) {
      double sum = 0, square = 0;
      for (std::int64_t r = 0; r < height_; ++r) {
        const auto at = static_cast<std::size_t>((r * groups_ + g) * 2);
        sum += sums_[at];
        square += sums_[at + 1];
      }
      const double m = sum / total;
      mean.mutable_data_ptr<double>()[g] = m;
      const double v = square / total - m * m;
      var.mutable_data_ptr<double>()[g] = v < 0 ? 0 : v;  // NaN stays
    }
  } else {
    const auto share = (at::tensor(counts_, at::kDouble) / total)
                           .to(norm.weight.device())
                           .unsqueeze(1);                  // [stretches, 1]
    const auto means = at::stack(means_).to(at::kDouble);  // [stretches, groups]
    mean = (means * share).sum(0);
    var = ((at::stack(vars_).to(at::kDouble) + (means - mean).square()) * share).sum(0);
  }
  sums_ = {};
  means_.clear();
  vars_.clear();
  counts_.clear();
  return factors(norm, mean, var, eps);
}

void normalise_rows(const at::Tensor& in, const NormFactors& norm, bool silu,
                    const at::Tensor& out) {
  if (out.device().is_cpu()) return normalise_rows_cpu(in, norm.scale, norm.shift, silu, out);
  auto to = out;
  at::addcmul_out(to, norm.shift, in, norm.scale);
  if (silu) at::silu_(to);
}

}  // namespace steadyflux
