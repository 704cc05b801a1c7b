#include "vae/autoencoder_kl.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "nn/reused_buffers.h"

namespace steadyflux {

void UpDecoderBlock2D::forward(const RowBands& bands, RowPlane& x,
                               const std::function<void()>& after_stage) const {
  for (const auto& resnet : resnets) {
    resnet.forward(bands, x);
    after_stage();
  }
  if (!has_upsampler) return;
  auto y = bands.plane(2 * x.height(), 2 * x.width(), upsampler.weight.size(0));
  bands.convolve_upsampled(upsampler, x.rows, [&](std::int64_t first, const at::Tensor& rows) {
    bands.put(y, first, rows);
  });
  x = std::move(y);
  after_stage();
}

AutoencoderKlDecoder::AutoencoderKlDecoder(AutoencoderKlConfig config_in)
    : config(std::move(config_in)) {
  mid_block.resnets.resize(2);
  mid_block.has_attention = config.mid_block_add_attention;
  up_blocks.resize(config.block_out_channels.size());
  for (std::size_t i = 0; i < up_blocks.size(); ++i) {
    up_blocks[i].resnets.resize(static_cast<std::size_t>(config.layers_per_block) + 1);
    up_blocks[i].has_upsampler = i + 1 < up_blocks.size();
  }
}

std::vector<TensorSlot> AutoencoderKlDecoder::slots() {
  std::vector<TensorSlot> slots;
  const SlotScope root(slots);
  if (config.use_post_quant_conv) {
    post_quant_conv.visit(root.scope("post_quant_conv"), config.latent_channels,
                          config.latent_channels, 1);
  }
  const auto decoder = root.scope("decoder");
  auto channels = config.block_out_channels.back();
  conv_in.visit(decoder.scope("conv_in"), config.latent_channels, channels, 3);
  mid_block.visit(decoder.scope("mid_block"), channels);
  for (std::size_t i = 0; i < up_blocks.size(); ++i) {
    const auto block = decoder.scope("up_blocks", i);
    const auto out_channels = config.block_out_channels[up_blocks.size() - 1 - i];
    for (std::size_t j = 0; j < up_blocks[i].resnets.size(); ++j) {
      up_blocks[i].resnets[j].visit(block.scope("resnets", j), j == 0 ? channels : out_channels,
                                    out_channels);
    }
    if (up_blocks[i].has_upsampler) {
      up_blocks[i].upsampler.visit(block.scope("upsamplers", 0).scope("conv"), out_channels,
                                   out_channels, 3);
    }
    channels = out_channels;
  }
  conv_norm_out.visit(decoder.scope("conv_norm_out"), channels);
  conv_out.visit(decoder.scope("conv_out"), channels, config.out_channels, 3);
  return slots;
}

std::int64_t AutoencoderKlDecoder::num_stages() const {
  std::int64_t stages = 2 + mid_block.num_stages();
  for (const auto& block : up_blocks) {
    stages += static_cast<std::int64_t>(block.resnets.size()) + (block.has_upsampler ? 1 : 0);
  }
  return stages;
}

at::Tensor AutoencoderKlDecoder::decode(const at::Tensor& latents, const BandMode& mode,
                                        const AfterStage& after_stage) const {
  const ReusedBuffers reused;
  const RowBands bands(mode, latents.device(), latents.scalar_type(), config.norm_num_groups);
  std::int64_t stage = 0;
  const auto report = [&] {
    if (after_stage) after_stage(++stage);
  };
  const auto factor = config.scale_factor();
  const auto pictures = bands.empty_parked(
      {latents.size(0), latents.size(2) * factor, latents.size(3) * factor, config.out_channels});
  for (std::int64_t i = 0; i < latents.size(0); ++i) {
    at::Tensor z = latents.narrow(0, i, 1) / config.scaling_factor + config.shift_factor;
    if (config.use_post_quant_conv) z = post_quant_conv(z);
    z = picture_to_rows(bands, z.squeeze(0));
    auto x = convolve_first(bands, conv_in, z);
    z.reset();
    report();
    mid_block.forward(bands, x, report);
    for (const auto& block : up_blocks) block.forward(bands, x, report);
    convolve_last(bands, conv_norm_out, conv_out, std::move(x), pictures.select(0, i));
    report();
  }
  return rows_to_pictures(pictures);
}

at::Tensor to_rgb8(const at::Tensor& picture) {
  const auto batch = picture.size(0), height = picture.size(2), width = picture.size(3);
  auto result = at::empty({batch, height, width, picture.size(1)}, at::kByte);
  constexpr std::int64_t kPixels = 65536;  // at once: what is in between takes little memory
  const auto step = std::clamp<std::int64_t>(kPixels / width, 1, height);
  for (std::int64_t i = 0; i < batch; ++i) {
    for (std::int64_t first = 0; first < height; first += step) {
      const auto count = std::min(step, height - first);
      const auto rows = picture.select(0, i).narrow(1, first, count);  // [3, n, W]
      const auto unit = (rows * 0.5 + 0.5).clamp(0, 1);
      const auto scaled = (unit.permute({1, 2, 0}).to(at::kCPU, at::kFloat) * 255).round();
      result.select(0, i).narrow(0, first, count).copy_(scaled);
    }
  }
  return result;
}

}  // namespace steadyflux
