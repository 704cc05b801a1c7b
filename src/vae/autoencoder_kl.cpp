#include "vae/autoencoder_kl.h"

#include <ATen/ATen.h>

namespace steadyflux {
namespace {
constexpr double kNormEps = 1e-6;

at::Tensor silu_norm(const GroupNorm& norm, const at::Tensor& x, std::int64_t groups) {
  auto y = norm(x, groups, kNormEps);
  return at::silu_(y);
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

at::Tensor ResnetBlock2D::forward(const at::Tensor& x, std::int64_t groups) const {
  auto h = conv1(silu_norm(norm1, x, groups));
  h = conv2(silu_norm(norm2, h, groups));
  return h.add_(conv_shortcut.weight.defined() ? conv_shortcut(x) : x);
}

void VaeAttention::visit(const SlotScope& scope, std::int64_t channels) {
  group_norm.visit(scope.scope("group_norm"), channels);
  to_q.visit(scope.scope("to_q"), channels, channels);
  to_k.visit(scope.scope("to_k"), channels, channels);
  to_v.visit(scope.scope("to_v"), channels, channels);
  to_out_0.visit(scope.scope("to_out").scope("0"), channels, channels);
}

at::Tensor VaeAttention::forward(const at::Tensor& x, std::int64_t groups) const {
  const auto channels = x.size(1);
  const auto flat = group_norm(x.flatten(2), groups, kNormEps).transpose(1, 2);  // [B, H W, C]
  const auto h =
      to_out_0(attention(split_heads(to_q(flat), channels), split_heads(to_k(flat), channels),
                         split_heads(to_v(flat), channels)));
  return h.transpose(1, 2).reshape(x.sizes()) + x;
}

at::Tensor UpDecoderBlock2D::forward(at::Tensor x, std::int64_t groups) const {
  for (const auto& resnet : resnets) x = resnet.forward(x, groups);
  if (!has_upsampler) return x;
  return upsampler(at::upsample_nearest2d(x, {2 * x.size(2), 2 * x.size(3)}));
}

AutoencoderKlDecoder::AutoencoderKlDecoder(AutoencoderKlConfig config_in)
    : config(std::move(config_in)) {
  mid_block.resnets.resize(2);
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
  const auto mid = decoder.scope("mid_block");
  for (std::size_t i = 0; i < mid_block.resnets.size(); ++i) {
    mid_block.resnets[i].visit(mid.scope("resnets", i), channels, channels);
  }
  if (config.mid_block_add_attention) {
    mid_block.attention.visit(mid.scope("attentions", 0), channels);
  }
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

at::Tensor AutoencoderKlDecoder::decode(
    const at::Tensor& latents, const std::function<void(std::int64_t)>& after_stage) const {
  const auto groups = config.norm_num_groups;
  std::int64_t stage = 0;
  const auto report = [&] {
    if (after_stage) after_stage(++stage);
  };
  auto x = latents / config.scaling_factor + config.shift_factor;
  if (config.use_post_quant_conv) x = post_quant_conv(x);
  x = conv_in(x);
  x = mid_block.resnets[0].forward(x, groups);
  if (config.mid_block_add_attention) x = mid_block.attention.forward(x, groups);
  x = mid_block.resnets[1].forward(x, groups);
  report();
  for (const auto& block : up_blocks) {
    x = block.forward(std::move(x), groups);
    report();
  }
  x = conv_out(silu_norm(conv_norm_out, x, groups));
  report();
  return x;
}

at::Tensor to_rgb8(const at::Tensor& picture) {
  const auto unit = (picture * 0.5 + 0.5).clamp(0, 1);
  const auto scaled = (unit.permute({0, 2, 3, 1}).to(at::kCPU, at::kFloat) * 255).round();
  return scaled.to(at::kByte).contiguous();
}

}  // namespace steadyflux
