// AutoencoderKL's decoder: latents become pixels.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "config/model_config.h"
#include "nn/layers.h"

namespace steadyflux {

struct ResnetBlock2D {
  GroupNorm norm1, norm2;
  Conv2d conv1, conv2, conv_shortcut;  // conv_shortcut only where the channel count changes

  void visit(const SlotScope& scope, std::int64_t in_channels, std::int64_t out_channels);
  at::Tensor forward(const at::Tensor& x, std::int64_t groups) const;  // [B, C, H, W]
};

// Self-attention over all latent positions, one head.
struct VaeAttention {
  GroupNorm group_norm;
  Linear to_q, to_k, to_v, to_out_0;

  void visit(const SlotScope& scope, std::int64_t channels);
  at::Tensor forward(const at::Tensor& x, std::int64_t groups) const;  // [B, C, H, W]
};

struct UpDecoderBlock2D {
  std::vector<ResnetBlock2D> resnets;
  Conv2d upsampler;  // upsamplers.0.conv; absent in the last block
  bool has_upsampler = false;

  at::Tensor forward(at::Tensor x, std::int64_t groups) const;
};

struct AutoencoderKlDecoder {
  explicit AutoencoderKlDecoder(AutoencoderKlConfig config);

  AutoencoderKlConfig config;
  Conv2d post_quant_conv;  // only if the config says so
  Conv2d conv_in;
  struct {
    std::vector<ResnetBlock2D> resnets;  // 2
    VaeAttention attention;              // attentions.0
  } mid_block;
  std::vector<UpDecoderBlock2D> up_blocks;
  GroupNorm conv_norm_out;
  Conv2d conv_out;

  std::vector<TensorSlot> slots();
  // Parts of the decoder that report progress: conv_in and mid block, each up block, the end.
  std::int64_t num_stages() const { return static_cast<std::int64_t>(up_blocks.size()) + 2; }
  // latents [B, latent_channels, h, w], as the transformer leaves them -> picture [B, 3, 8h, 8w],
  // about -1..1. Undoes scaling_factor and shift_factor first.
  at::Tensor decode(const at::Tensor& latents,
                    const std::function<void(std::int64_t)>& after_stage = {}) const;
};

// [B, 3, H, W], about -1..1, any dtype and device -> [B, H, W, 3] bytes on the CPU, rounded as
// diffusers' image processor rounds.
at::Tensor to_rgb8(const at::Tensor& picture);

}  // namespace steadyflux
