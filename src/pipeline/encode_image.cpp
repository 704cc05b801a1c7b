// The phase of image to image: a picture -> the latents that denoising begins from.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <memory>

#include "pipeline/latents.h"
#include "pipeline/phase_weights.h"
#include "pipeline/phases.h"
#include "pipeline/picture_sigmas.h"
#include "pipeline/tile_blend.h"
#include "vae/autoencoder_kl.h"

namespace steadyflux {
namespace {

// [H, W, 3] bytes, a view.
at::Tensor rows_of(const Image& image) {
  return at::from_blob(const_cast<std::uint8_t*>(image.rgb.data()), {image.height, image.width, 3},
                       at::kByte);
}

// [H, W, 3] bytes -> [1, 3, H, W], -1..1.
at::Tensor pixels_of(const at::Tensor& rows, at::ScalarType dtype) {
  const auto values = rows.permute({2, 0, 1}).unsqueeze(0).to(at::kFloat).div(255.0);
  return values.mul(2.0).sub(1.0).to(dtype).contiguous();
}

// Of one value for every cell of the latents, packed as they are: [1, S, in_channels].
at::Tensor pack_mask(const InitImage::Pixels& init, std::int64_t channels, std::int64_t height,
                     std::int64_t width, at::ScalarType dtype) {
  const auto bytes = at::from_blob(const_cast<std::uint8_t*>(init.mask.data()),
                                   {1, 1, init.image.height, init.image.width}, at::kByte);
  const auto painted = bytes.ge(128).to(at::kFloat);
  const auto cells = at::upsample_nearest2d(painted, at::IntArrayRef{height, width});
  return pack_latents(cells.repeat({1, channels, 1, 1}).to(dtype));
}

// [3, H, W] bytes' pixels -> moments [1, 2 C, h, w] in RAM, tile by tile.
class PictureEncoder {
 public:
  explicit PictureEncoder(const PhaseContext& context)
      : context_(context),
        vae_(context.model.vae),
        mode_{context.plan.vae_encoder.band_bytes, context.plan.vae_encoder.parked_in_ram} {
    const LoadTimer timer{context.load_seconds};
    load_slots(vae_encoder_source().open(context.model), vae_.slots(),
               load_options(context, Component::kVae));
  }

  // `tiles` in packed tokens.
  at::Tensor encode(const Image& image, const TileGrid& tiles) {
    const auto rows = rows_of(image);
    if (tiles.count() == 1) return encode_whole(rows);
    const auto grid = tiles.scaled(2);
    const auto pixels = grid.scaled(context_.model.vae.scale_factor());
    TileBlend blend(grid, 2 * context_.model.vae.latent_channels);
    for (std::int64_t i = 0; i < grid.count(); ++i) {
      throw_if_interrupted(context_.observer);
      const auto moments = encode_whole(cut_tile(rows, pixels, i));
      blend.add(i, moments.squeeze(0).permute({1, 2, 0}));
    }
    return blend.whole().permute({2, 0, 1}).unsqueeze(0).to(context_.dtype).contiguous();
  }

 private:
  // [H, W, 3] bytes
  at::Tensor encode_whole(const at::Tensor& rows) {
    const auto moments =
        vae_.encode(pixels_of(rows, context_.dtype).to(context_.device), mode_).to(at::kCPU);
    expect_finite(context_, moments, vae_encoder_source());
    return moments;
  }

  const PhaseContext& context_;
  AutoencoderKlEncoder vae_;
  BandMode mode_;
};

// Draws what diffusers draws, in its order: first of the distribution of latents, then the noise.
class ImageLatents {
 public:
  ImageLatents(const PhaseContext& context, std::uint64_t seed)
      : context_(context), generator_(at::make_generator<at::CPUGeneratorImpl>(seed)) {}

  // moments [1, 2 C, h, w], on the CPU -> latents [1, C, h, w] as the transformer takes them.
  at::Tensor sample(const at::Tensor& moments) {
    const auto& vae = context_.model.vae;
    const auto parts = moments.chunk(2, 1);
    const auto deviation = at::exp(0.5 * parts[1].clamp(-30.0, 20.0));
    const auto latents = parts[0] + deviation * draw(parts[0].sizes());
    return (latents - vae.shift_factor) * vae.scaling_factor;
  }
  at::Tensor draw(at::IntArrayRef sizes) {
    return at::randn(sizes, generator_, at::TensorOptions().dtype(context_.dtype));
  }

 private:
  const PhaseContext& context_;
  at::Generator generator_;
};

}  // namespace

at::Tensor Inpainting::keep_unmasked(const at::Tensor& latents, float sigma) const {
  const auto kept = sigma > 0 ? scale_noise(image_latents, sigma, noise) : image_latents;
  return (1.0 - mask) * kept + mask * latents;
}

std::int64_t encode_image_steps(const Chunk& chunk) {
  return std::count_if(chunk.pictures.begin(), chunk.pictures.end(), [&](const auto& picture) {
    return chunk.request(picture).init_image != nullptr;
  });
}

void encode_images(const PhaseContext& context, const Chunk& chunk, Denoising& state) {
  PictureEncoder encoder(context);
  state.inpainting.resize(chunk.pictures.size());
  // Pictures of a request share theirs, and stand next to each other.
  std::shared_ptr<const InitImage> loaded;
  InitImage::Pixels pixels;
  at::Tensor moments;
  std::int64_t done = 0;
  for (std::size_t i = 0; i < chunk.pictures.size(); ++i) {
    const auto& picture = chunk.pictures[i];
    const auto& request = chunk.request(picture);
    if (!request.init_image) continue;
    context.observer.phase_progress(done++);
    throw_if_interrupted(context.observer);
    auto& latents = state.latents[i];
    auto& inpainting = state.inpainting[i];
    const bool lacks_mask = !request.init_image->mask.empty() && !inpainting.mask.defined();
    if (latents.defined() && !lacks_mask) continue;
    if (loaded != request.init_image) {
      loaded = request.init_image;
      pixels = loaded->load();
      moments = encoder.encode(pixels.image, tiles_of(context.model, request));
    }
    ImageLatents drawn(context, request.seed + static_cast<std::uint64_t>(picture.index));
    const auto image = drawn.sample(moments);
    const auto noise = drawn.draw(image.sizes());
    if (!latents.defined()) {
      const auto sigmas = sigmas_to_do(context.model, request);
      latents = pack_latents(scale_noise(image, sigmas.front(), noise));
    }
    if (!lacks_mask) continue;
    inpainting = {pack_mask(pixels, image.size(1), image.size(2), image.size(3), context.dtype),
                  pack_latents(image), pack_latents(noise)};
  }
  context.observer.phase_progress(done);
}

}  // namespace steadyflux
