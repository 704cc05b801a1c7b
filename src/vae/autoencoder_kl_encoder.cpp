// The encoder of autoencoder_kl.h.
#include <ATen/ATen.h>

#include "nn/reused_buffers.h"
#include "vae/autoencoder_kl.h"

namespace steadyflux {

void DownEncoderBlock2D::forward(const RowBands& bands, RowPlane& x) const {
  for (const auto& resnet : resnets) resnet.forward(bands, x);
  if (!has_downsampler) return;
  auto y = bands.plane(x.height() / 2, x.width() / 2, downsampler.weight.size(0));
  bands.convolve_downsampled(downsampler, x.rows, [&](std::int64_t first, const at::Tensor& rows) {
    bands.put(y, first, rows);
  });
  x = std::move(y);
}

AutoencoderKlEncoder::AutoencoderKlEncoder(AutoencoderKlConfig config_in)
    : config(std::move(config_in)) {
  mid_block.resnets.resize(2);
  mid_block.has_attention = config.mid_block_add_attention;
  down_blocks.resize(config.block_out_channels.size());
  for (std::size_t i = 0; i < down_blocks.size(); ++i) {
    down_blocks[i].resnets.resize(static_cast<std::size_t>(config.layers_per_block));
    down_blocks[i].has_downsampler = i + 1 < down_blocks.size();
  }
}

std::vector<TensorSlot> AutoencoderKlEncoder::slots() {
  std::vector<TensorSlot> slots;
  const SlotScope root(slots);
  const auto encoder = root.scope("encoder");
  auto channels = config.block_out_channels.front();
  conv_in.visit(encoder.scope("conv_in"), config.in_channels, channels, 3);
  for (std::size_t i = 0; i < down_blocks.size(); ++i) {
    const auto block = encoder.scope("down_blocks", i);
    const auto out_channels = config.block_out_channels[i];
    for (std::size_t j = 0; j < down_blocks[i].resnets.size(); ++j) {
      down_blocks[i].resnets[j].visit(block.scope("resnets", j), j == 0 ? channels : out_channels,
                                      out_channels);
    }
    if (down_blocks[i].has_downsampler) {
      down_blocks[i].downsampler.visit(block.scope("downsamplers", 0).scope("conv"), out_channels,
                                       out_channels, 3);
    }
    channels = out_channels;
  }
  mid_block.visit(encoder.scope("mid_block"), channels);
  conv_norm_out.visit(encoder.scope("conv_norm_out"), channels);
  conv_out.visit(encoder.scope("conv_out"), channels, 2 * config.latent_channels, 3);
  if (config.use_quant_conv) {
    quant_conv.visit(root.scope("quant_conv"), 2 * config.latent_channels,
                     2 * config.latent_channels, 1);
  }
  return slots;
}

at::Tensor AutoencoderKlEncoder::encode(const at::Tensor& pictures, const BandMode& mode) const {
  const ReusedBuffers reused;
  const RowBands bands(mode, pictures.device(), pictures.scalar_type(), config.norm_num_groups);
  const auto factor = config.scale_factor();
  const auto moments = bands.empty({pictures.size(0), pictures.size(2) / factor,
                                    pictures.size(3) / factor, 2 * config.latent_channels});
  for (std::int64_t i = 0; i < pictures.size(0); ++i) {
    auto picture = picture_to_rows(bands, pictures.select(0, i));
    auto x = convolve_first(bands, conv_in, picture);
    picture.reset();
    for (const auto& block : down_blocks) block.forward(bands, x);
    mid_block.forward(bands, x, [] {});
    convolve_last(bands, conv_norm_out, conv_out, std::move(x), moments.select(0, i));
  }
  const auto result = rows_to_pictures(moments);
  return config.use_quant_conv ? quant_conv(result) : result;
}

}  // namespace steadyflux
