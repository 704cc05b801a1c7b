#include "vae/blocks.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "config/vae_bands.h"
#include "nn/products.h"

namespace steadyflux {
namespace {

// In the reference the input of these three is a transposed view, for which libtorch rounds the
// product to the dtype before it adds the bias.
at::Tensor project(const Linear& linear, const at::Tensor& x) {
  return products::matmul(x, linear.weight.t()).add_(linear.bias);
}

}  // namespace

void ResnetBlock2D::visit(const SlotScope& scope, std::int64_t in_channels,
                          std::int64_t out_channels) {
  norm1.visit(scope.scope("norm1"), in_channels);
  conv1.visit(scope.scope("conv1"), in_channels, out_channels, 3);
  norm2.visit(scope.scope("norm2"), out_channels);
  conv2.visit(scope.scope("conv2"), out_channels, out_channels, 3);
  if (in_channels != out_channels) {
    conv_shortcut.visit(scope.scope("conv_shortcut"), in_channels, out_channels, 1);
  }
}

void ResnetBlock2D::forward(const RowBands& bands, RowPlane& x) const {
  auto h = bands.plane(x.height(), x.width(), conv1.weight.size(0));
  bands.convolve(conv1, x.rows, x.moments.finish(norm1, kVaeNormEps),
                 [&](std::int64_t first, const at::Tensor& y) { bands.put(h, first, y); });
  const auto norm = h.moments.finish(norm2, kVaeNormEps);
  if (!conv_shortcut.weight.defined()) {
    bands.convolve(conv2, h.rows, norm,
                   [&](std::int64_t first, const at::Tensor& y) { bands.add(x, first, y); });
    return;
  }
  // The sum takes the place of h, whose rows are in the window by then.
  bands.convolve(conv2, h.rows, norm, [&](std::int64_t first, const at::Tensor& y) {
    y.add_(bands.convolve_1x1(conv_shortcut, bands.fetch(x.rows, first, y.size(0))));
    bands.put(h, first, y);
  });
  x = std::move(h);
}

void VaeAttention::visit(const SlotScope& scope, std::int64_t channels) {
  group_norm.visit(scope.scope("group_norm"), channels);
  to_q.visit(scope.scope("to_q"), channels, channels);
  to_k.visit(scope.scope("to_k"), channels, channels);
  to_v.visit(scope.scope("to_v"), channels, channels);
  to_out_0.visit(scope.scope("to_out").scope("0"), channels, channels);
}

void VaeAttention::forward(const RowBands& bands, RowPlane& x) const {
  const auto height = x.height(), width = x.width(), channels = x.channels();
  const auto norm = x.moments.finish(group_norm, kVaeNormEps);
  const auto step = vae_query_rows(height, width);
  const auto in_steps = [&](const auto& body) {
    for (std::int64_t first = 0; first < height; first += step) {
      const auto rows = bands.fetch(x.rows, first, std::min(step, height - first));
      const auto normed = bands.empty(rows.sizes());
      normalise_rows(rows, norm, /*silu=*/false, normed);
      body(first, normed.view({-1, channels}));  // [positions, C]
    }
  };
  auto k = bands.empty({height * width, channels}), v = bands.empty({height * width, channels});
  in_steps([&](std::int64_t first, const at::Tensor& normed) {
    k.narrow(0, first * width, normed.size(0)).copy_(project(to_k, normed));
    v.narrow(0, first * width, normed.size(0)).copy_(project(to_v, normed));
  });
  const auto head = [](const at::Tensor& t) { return t.unsqueeze(0).unsqueeze(0); };
  in_steps([&](std::int64_t first, const at::Tensor& normed) {
    const auto h =
        to_out_0(attention(head(project(to_q, normed)), head(k), head(v)));  // [1, positions, C]
    bands.add(x, first, h.view({-1, width, channels}));
  });
}

void VaeMidBlock::visit(const SlotScope& scope, std::int64_t channels) {
  for (std::size_t i = 0; i < resnets.size(); ++i) {
    resnets[i].visit(scope.scope("resnets", i), channels, channels);
  }
  if (has_attention) attention.visit(scope.scope("attentions", 0), channels);
}

void VaeMidBlock::forward(const RowBands& bands, RowPlane& x,
                          const std::function<void()>& after_stage) const {
  resnets[0].forward(bands, x);
  after_stage();
  if (has_attention) {
    attention.forward(bands, x);
    after_stage();
  }
  resnets[1].forward(bands, x);
  after_stage();
}

RowPlane convolve_first(const RowBands& bands, const Conv2d& conv, const at::Tensor& x) {
  auto y = bands.plane(x.size(0), x.size(1), conv.weight.size(0));
  bands.convolve(conv, x, std::nullopt,
                 [&](std::int64_t first, const at::Tensor& rows) { bands.put(y, first, rows); });
  return y;
}

void convolve_last(const RowBands& bands, const GroupNorm& norm, const Conv2d& conv, RowPlane x,
                   const at::Tensor& out) {
  bands.convolve(
      conv, x.rows, x.moments.finish(norm, kVaeNormEps),
      [&](std::int64_t first, const at::Tensor& y) { out.narrow(0, first, y.size(0)).copy_(y); });
}

at::Tensor picture_to_rows(const RowBands& bands, const at::Tensor& picture) {
  const auto rows =
      bands.empty_parked({picture.size(1), picture.size(2), picture.size(0)});  // [H, W, C]
  rows.copy_(picture.permute({1, 2, 0}));
  return rows;
}

at::Tensor rows_to_pictures(const at::Tensor& rows) { return rows.permute({0, 3, 1, 2}); }

}  // namespace steadyflux
