// AutoencoderKL: its decoder turns latents into pixels, its encoder pixels into the moments of
// latents. Both work layer by layer in bands of rows (row_bands.h), one picture of a batch at a
// time; how they are cut changes what they take of memory and time, and no bit of the result.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "config/model_config.h"
#include "nn/layers.h"
#include "vae/blocks.h"
#include "vae/row_bands.h"

namespace steadyflux {

struct UpDecoderBlock2D {
  std::vector<ResnetBlock2D> resnets;
  Conv2d upsampler;  // upsamplers.0.conv; absent in the last block
  bool has_upsampler = false;

  void forward(const RowBands& bands, RowPlane& x, const std::function<void()>& after_stage) const;
};

struct AutoencoderKlDecoder {
  explicit AutoencoderKlDecoder(AutoencoderKlConfig config);

  AutoencoderKlConfig config;
  Conv2d post_quant_conv;  // only if the config says so
  Conv2d conv_in;
  VaeMidBlock mid_block;
  std::vector<UpDecoderBlock2D> up_blocks;
  GroupNorm conv_norm_out;
  Conv2d conv_out;

  std::vector<TensorSlot> slots();
  // Parts of decoding one picture that report progress: conv_in, every resnet, attention and
  // upsampler, conv_out.
  std::int64_t num_stages() const;
  // latents [B, latent_channels, h, w], as the transformer leaves them -> pictures [B, 3, 8h, 8w],
  // about -1..1, on the device of the latents, or in RAM if that is where planes are parked. Undoes
  // scaling_factor and shift_factor first. after_stage gets 1 to B * num_stages().
  using AfterStage = std::function<void(std::int64_t)>;
  at::Tensor decode(const at::Tensor& latents, const BandMode& mode = {},
                    const AfterStage& after_stage = {}) const;
};

struct DownEncoderBlock2D {
  std::vector<ResnetBlock2D> resnets;
  Conv2d downsampler;  // downsamplers.0.conv; absent in the last block
  bool has_downsampler = false;

  void forward(const RowBands& bands, RowPlane& x) const;
};

struct AutoencoderKlEncoder {
  explicit AutoencoderKlEncoder(AutoencoderKlConfig config);

  AutoencoderKlConfig config;
  Conv2d conv_in;
  std::vector<DownEncoderBlock2D> down_blocks;
  VaeMidBlock mid_block;
  GroupNorm conv_norm_out;
  Conv2d conv_out;
  Conv2d quant_conv;  // only if the config says so

  std::vector<TensorSlot> slots();
  // pictures [B, 3, H, W], -1..1 -> moments [B, 2 * latent_channels, h, w]: the means, then the
  // logarithms of the variances. Latents for the transformer are (mean - shift_factor) *
  // scaling_factor.
  at::Tensor encode(const at::Tensor& pictures, const BandMode& mode = {}) const;
};

// [B, 3, H, W], about -1..1, any dtype and device -> [B, H, W, 3] bytes on the CPU, rounded as
// diffusers' image processor rounds.
at::Tensor to_rgb8(const at::Tensor& picture);

}  // namespace steadyflux
