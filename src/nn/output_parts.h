// Linear layers that make their outputs part by part, so that little memory is taken beside the
// result (config/widened.h).
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>

#include "config/widened.h"

namespace steadyflux {

inline std::optional<at::Tensor> if_defined(const at::Tensor& x) {
  return x.defined() ? std::optional<at::Tensor>(x) : std::nullopt;
}

// multiply(part of the weight [outputs, in], its bias or undefined) -> [rows of x, outputs], for
// part after part; all of them in the shape [..., out] and the dtype of x [..., in].
template <typename Multiply>
at::Tensor by_outputs(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                      Multiply multiply) {
  const auto out_features = weight.size(0);
  auto sizes = x.sizes().vec();
  sizes.back() = out_features;
  auto result = at::empty(sizes, x.options());
  const auto out = result.view({-1, out_features});
  const auto step = widened_outputs(weight.size(1));
  for (std::int64_t first = 0; first < out_features; first += step) {
    const auto count = std::min(step, out_features - first);
    const auto offset = bias.defined() ? bias.narrow(0, first, count) : bias;
    out.narrow(1, first, count).copy_(multiply(weight.narrow(0, first, count), offset));
  }
  return result;
}

}  // namespace steadyflux
