// The blocks of AutoencoderKL's decoder and encoder, over one picture in bands of rows.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "config/model_config.h"
#include "nn/layers.h"
#include "vae/row_bands.h"

namespace steadyflux {

constexpr double kVaeNormEps = 1e-6;

struct ResnetBlock2D {
  GroupNorm norm1, norm2;
  Conv2d conv1, conv2, conv_shortcut;  // conv_shortcut only where the channel count changes

  void visit(const SlotScope& scope, std::int64_t in_channels, std::int64_t out_channels);
  void forward(const RowBands& bands, RowPlane& x) const;
};

// Self-attention over all latent positions, one head.
struct VaeAttention {
  GroupNorm group_norm;
  Linear to_q, to_k, to_v, to_out_0;

  void visit(const SlotScope& scope, std::int64_t channels);
  void forward(const RowBands& bands, RowPlane& x) const;
};

struct VaeMidBlock {
  std::vector<ResnetBlock2D> resnets;  // 2
  VaeAttention attention;              // attentions.0
  bool has_attention = true;

  void visit(const SlotScope& scope, std::int64_t channels);
  std::int64_t num_stages() const { return has_attention ? 3 : 2; }
  void forward(const RowBands& bands, RowPlane& x, const std::function<void()>& after_stage) const;
};

// The layers at both ends: a 3x3 convolution into a new plane, and the last one, whose rows go to
// `out` [H, W, C]; x is freed.
RowPlane convolve_first(const RowBands& bands, const Conv2d& conv, const at::Tensor& x);
void convolve_last(const RowBands& bands, const GroupNorm& norm, const Conv2d& conv, RowPlane x,
                   const at::Tensor& out);

// One picture of a batch, [C, H, W], as rows where planes lie; and rows of all pictures as the
// batch.
at::Tensor picture_to_rows(const RowBands& bands, const at::Tensor& picture);  // -> [H, W, C]
at::Tensor rows_to_pictures(const at::Tensor& rows);  // [B, H, W, C] -> [B, C, H, W], a view

}  // namespace steadyflux
