#include "vae/row_bands.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <utility>

#include "config/vae_bands.h"
#include "nn/products.h"

namespace steadyflux {
namespace {

// [n, W, C] contiguous as [1, C, n, W] in the channels-last format, and back.
at::Tensor as_picture(const at::Tensor& rows) { return rows.unsqueeze(0).permute({0, 3, 1, 2}); }
at::Tensor as_rows(const at::Tensor& picture) { return picture.permute({0, 2, 3, 1}).squeeze(0); }

at::Tensor conv2d(const Conv2d& conv, const at::Tensor& rows, std::int64_t stride,
                  std::int64_t side_padding) {
  return as_rows(products::conv2d(as_picture(rows), conv.weight, conv.bias, {stride, stride},
                                  {0, side_padding}));
}

// A 3x3 convolution over a picture with every pixel made four meets each pixel of the source
// several times. For output pixels of one place of four (row % 2, column % 2) it is one of 2x2 over
// the source, with sums of its taps, and less than half of the products. What a sum loses by
// rounding goes to the next one, as neighbouring pixels are much alike.
Conv2d conv_at_place(const Conv2d& conv, std::int64_t row, std::int64_t column) {
  const auto& weight = conv.weight;
  auto sums = at::empty({weight.size(0), weight.size(1), 2, 2}, weight.options());
  // Taps [begin, end) of three meet the same pixel, the first or the second of two.
  const auto begin = [](std::int64_t tap, std::int64_t place) { return tap == 0 ? 0 : 1 + place; };
  const auto end = [](std::int64_t tap, std::int64_t place) { return tap == 0 ? 1 + place : 3; };
  at::Tensor lost;
  for (const auto& [i, j] : {std::pair{0, 0}, {0, 1}, {1, 1}, {1, 0}}) {
    const auto taps =
        weight.slice(2, begin(i, row), end(i, row)).slice(3, begin(j, column), end(j, column));
    auto sum = taps.sum({2, 3}, /*keepdim=*/false, at::kFloat);
    if (lost.defined()) sum.add_(lost);
    const auto rounded = sums.select(3, j).select(2, i);
    rounded.copy_(sum);
    lost = sum.sub_(rounded);
  }
  return {sums, conv.bias};
}

}  // namespace

at::Tensor RowBands::empty_parked(at::IntArrayRef size) const {
  return at::empty(
      size, at::TensorOptions().dtype(dtype_).device(parked() ? c10::Device(c10::kCPU) : device_));
}

at::Tensor RowBands::empty(at::IntArrayRef size) const {
  return at::empty(size, at::TensorOptions().dtype(dtype_).device(device_));
}

RowPlane RowBands::plane(std::int64_t height, std::int64_t width, std::int64_t channels) const {
  return {empty_parked({height, width, channels}), GroupMoments(height, width, channels, groups_)};
}

at::Tensor RowBands::fetch(const at::Tensor& rows, std::int64_t first, std::int64_t count) const {
  return rows.narrow(0, first, count).to(device_);
}

void RowBands::put(RowPlane& plane, std::int64_t first, const at::Tensor& y) const {
  const auto rows = plane.rows.narrow(0, first, y.size(0));
  if (!parked()) return plane.moments.store(y, /*add=*/false, first, rows);
  plane.moments.take(y);
  rows.copy_(y);
}

void RowBands::add(RowPlane& plane, std::int64_t first, const at::Tensor& y) const {
  const auto rows = plane.rows.narrow(0, first, y.size(0));
  if (!parked()) return plane.moments.store(y, /*add=*/true, first, rows);
  y.add_(rows.to(device_));
  put(plane, first, y);
}

std::int64_t RowBands::row_bytes(std::int64_t width, std::int64_t channels) const {
  return width * channels * static_cast<std::int64_t>(c10::elementSize(dtype_));
}

void RowBands::convolve(const Conv2d& conv, const at::Tensor& x,
                        const std::optional<NormFactors>& norm, const Take& take) const {
  const auto height = x.size(0), width = x.size(1), channels = x.size(2);
  // Writes the rows of the input from `first` on into a part of the window.
  const auto fill = [&](std::int64_t first, const at::Tensor& part) {
    const auto rows = x.narrow(0, first, part.size(0));
    if (!norm || parked()) part.copy_(rows);
    if (norm) normalise_rows(parked() ? part : rows, *norm, /*silu=*/true, part);
  };
  const auto unit = vae_unit_rows(height, width, !device_.is_cpu());
  const auto band = vae_band_rows(height, unit, row_bytes(width, channels), mode_.band_bytes);
  const auto window = empty({band + 2, width, channels});  // row i: the input's row begin - 1 + i
  window.select(0, 0).zero_();
  std::int64_t filled = 0;  // rows of the input that have been in a window
  for (std::int64_t begin = 0; begin < height; begin += band) {
    const auto end = std::min(begin + band, height);
    if (begin > 0) window.narrow(0, 0, 2).copy_(window.narrow(0, band, 2));
    const auto needed = std::min(end + 1, height);
    if (needed > filled) {
      fill(filled, window.narrow(0, filled - begin + 1, needed - filled));
      filled = needed;
    }
    if (end == height) window.select(0, end - begin + 1).zero_();
    for (auto first = begin; first < end; first += unit) {
      const auto count = std::min(unit, end - first);
      take(first, conv2d(conv, window.narrow(0, first - begin, count + 2), 1, 1));
    }
  }
}

void RowBands::convolve_upsampled(const Conv2d& conv, const at::Tensor& x, const Take& take) const {
  const auto height = x.size(0), width = x.size(1), channels = conv.weight.size(0);
  std::array<std::array<Conv2d, 2>, 2> convs;
  for (std::int64_t row = 0; row < 2; ++row) {
    for (std::int64_t column = 0; column < 2; ++column) {
      convs[row][column] = conv_at_place(conv, row, column);
    }
  }
  const auto unit = vae_unit_rows(2 * height, 2 * width, !device_.is_cpu()) / 2;
  const auto window = empty({unit + 2, width, x.size(2)});  // row i: the input's row first - 1 + i
  for (std::int64_t first = 0; first < height; first += unit) {
    const auto count = std::min(unit, height - first);
    const auto begin = std::max<std::int64_t>(first - 1, 0),
               end = std::min(first + count + 1, height);
    if (first == 0) window.select(0, 0).zero_();
    window.narrow(0, begin - first + 1, end - begin).copy_(x.narrow(0, begin, end - begin));
    if (first + count == height) window.select(0, count + 1).zero_();
    const auto y = empty({count, 2, width, 2, channels});
    for (std::int64_t row = 0; row < 2; ++row) {
      for (std::int64_t column = 0; column < 2; ++column) {
        const auto at_place = conv2d(convs[row][column], window.narrow(0, row, count + 1), 1, 1);
        y.select(3, column).select(1, row).copy_(at_place.narrow(1, column, width));
      }
    }
    take(2 * first, y.view({2 * count, 2 * width, channels}));
  }
}

void RowBands::convolve_downsampled(const Conv2d& conv, const at::Tensor& x,
                                    const Take& take) const {
  const auto in_height = x.size(0), in_width = x.size(1), channels = x.size(2);
  const auto height = in_height / 2, width = in_width / 2;
  const auto unit = vae_unit_rows(height, width, !device_.is_cpu());
  const auto band =
      vae_band_rows(height, unit, 2 * row_bytes(in_width + 1, channels), mode_.band_bytes);
  // Row i: the input's row 2 * begin + i; the last column is zero.
  const auto window = empty({2 * band + 1, in_width + 1, channels});
  window.select(1, in_width).zero_();
  for (std::int64_t begin = 0; begin < height; begin += band) {
    const auto end = std::min(begin + band, height);
    const auto count = std::min(2 * end + 1, in_height) - 2 * begin;
    window.narrow(0, 0, count).narrow(1, 0, in_width).copy_(x.narrow(0, 2 * begin, count));
    if (2 * end + 1 > in_height) window.select(0, count).zero_();
    for (auto first = begin; first < end; first += unit) {
      const auto rows = std::min(unit, end - first);
      take(first, conv2d(conv, window.narrow(0, 2 * (first - begin), 2 * rows + 1), 2, 0));
    }
  }
}

at::Tensor RowBands::convolve_1x1(const Conv2d& conv, const at::Tensor& rows) const {
  return conv2d(conv, rows, 1, 0);
}

}  // namespace steadyflux
