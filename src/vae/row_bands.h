// A picture between two layers, and convolutions that go over it in bands of rows. A band's input
// is prepared in a window that holds one row more on either side (zeros at the picture's edges), so
// nothing is approximated; the window's last two rows become the next one's first two, so that a
// layer may overwrite its input behind itself.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <optional>

#include "vae/group_moments.h"

namespace steadyflux {

constexpr std::int64_t kDefaultVaeBandBytes = std::int64_t{16} << 20;

struct BandMode {
  // A band's window takes about this much, but at least what one unit takes (config/vae_bands.h).
  std::int64_t band_bytes = kDefaultVaeBandBytes;
  // On a device other than the CPU: what lies between two layers waits in RAM.
  bool park_on_host = false;
};

// All channels of a pixel side by side, row after row, so that a stretch of rows is a view.
struct RowPlane {
  at::Tensor rows;       // [H, W, C] contiguous, on the device or parked in RAM
  GroupMoments moments;  // of what was stored

  std::int64_t height() const { return rows.size(0); }
  std::int64_t width() const { return rows.size(1); }
  std::int64_t channels() const { return rows.size(2); }
};

class RowBands {
 public:
  // Tensors are computed on `device`, with `dtype`.
  RowBands(const BandMode& mode, c10::Device device, at::ScalarType dtype,
           std::int64_t norm_num_groups)
      : mode_(mode), device_(device), dtype_(dtype), groups_(norm_num_groups) {}

  bool parked() const { return mode_.park_on_host && !device_.is_cpu(); }
  at::Tensor empty_parked(at::IntArrayRef size) const;  // where planes lie
  at::Tensor empty(at::IntArrayRef size) const;         // where they are computed with
  RowPlane plane(std::int64_t height, std::int64_t width, std::int64_t channels) const;

  // Rows on the computing device: a view where they lie there already.
  at::Tensor fetch(const at::Tensor& rows, std::int64_t first, std::int64_t count) const;
  // Rows become `y`, or `y` is added to them; y [n, W, C] may be overwritten.
  void put(RowPlane& plane, std::int64_t first, const at::Tensor& y) const;
  void add(RowPlane& plane, std::int64_t first, const at::Tensor& y) const;

  // Gets the rows [first, first + n) of a convolution's output, [n, W, C].
  using Take = std::function<void(std::int64_t first, const at::Tensor& y)>;

  // 3x3, padding 1, over x, or over SiLU of x normalised.
  void convolve(const Conv2d& conv, const at::Tensor& x, const std::optional<NormFactors>& norm,
                const Take& take) const;
  // The same over x with every pixel made four.
  void convolve_upsampled(const Conv2d& conv, const at::Tensor& x, const Take& take) const;
  // 3x3, stride 2, a row and a column of zeros below and on the right.
  void convolve_downsampled(const Conv2d& conv, const at::Tensor& x, const Take& take) const;
  // 1x1 on rows that are on the computing device.
  at::Tensor convolve_1x1(const Conv2d& conv, const at::Tensor& rows) const;

 private:
  std::int64_t row_bytes(std::int64_t width, std::int64_t channels) const;

  BandMode mode_;
  c10::Device device_;
  at::ScalarType dtype_;
  std::int64_t groups_;
};

}  // namespace steadyflux
