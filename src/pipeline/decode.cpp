// The last phase: latents -> pixels.
#include <ATen/ATen.h>

#include <cstring>

#include "pipeline/latents.h"
#include "pipeline/phase_weights.h"
#include "pipeline/phases.h"
#include "pipeline/tile_blend.h"
#include "vae/autoencoder_kl.h"

namespace steadyflux {

std::int64_t decode_steps(const FluxModel& model, const Chunk& chunk, std::size_t pictures) {
  std::int64_t tiles = 0;
  for (std::size_t i = 0; i < pictures; ++i) {
    tiles += tiles_of(model, chunk.request(chunk.pictures[i])).count();
  }
  return tiles * AutoencoderKlDecoder(model.vae).num_stages();
}

namespace {

class PictureDecoder {
 public:
  // `stages_done`: of the pictures before.
  PictureDecoder(const PhaseContext& context, std::int64_t stages_done)
      : context_(context),
        vae_(context.model.vae),
        mode_{context.plan.vae.band_bytes, context.plan.vae.parked_in_ram},
        stages_done_(stages_done) {
    const LoadTimer timer{context.load_seconds};
    load_slots(vae_source().open(context.model), vae_.slots(),
               load_options(context, Component::kVae));
  }

  // [1, C, h, w] in RAM -> [1, 3, H, W], with `tiles` in packed tokens.
  at::Tensor decode(const at::Tensor& latents, const TileGrid& tiles) {
    if (tiles.count() == 1) return decode_whole(latents);
    const auto grid = tiles.scaled(2);
    const auto pixels = grid.scaled(context_.model.vae.scale_factor());
    const auto rows = latents.squeeze(0).permute({1, 2, 0});  // [h, w, C]
    TileBlend blend(pixels, context_.model.vae.out_channels);
    for (std::int64_t i = 0; i < grid.count(); ++i) {
      const auto tile = cut_tile(rows, grid, i).permute({2, 0, 1}).unsqueeze(0).contiguous();
      blend.add(i, decode_whole(tile).squeeze(0).permute({1, 2, 0}));
    }
    return blend.whole().permute({2, 0, 1}).unsqueeze(0);
  }

 private:
  at::Tensor decode_whole(const at::Tensor& latents) {
    const auto picture = vae_.decode(latents.to(context_.device), mode_, [&](std::int64_t) {
      context_.observer.phase_progress(++stages_done_);
      throw_if_interrupted(context_.observer);
    });
    expect_finite(context_, picture, vae_source());
    return picture;
  }

  const PhaseContext& context_;
  AutoencoderKlDecoder vae_;
  BandMode mode_;
  std::int64_t stages_done_;
};

Image to_image(const at::Tensor& pixels) {
  const auto rgb = to_rgb8(pixels);  // [1, H, W, 3]
  Image image{rgb.size(2), rgb.size(1), {}};
  image.rgb.resize(static_cast<std::size_t>(rgb.numel()));
  std::memcpy(image.rgb.data(), rgb.const_data_ptr(), image.rgb.size());
  return image;
}

}  // namespace

void decode(const PhaseContext& context, const Chunk& chunk, const std::vector<at::Tensor>& latents,
            std::size_t& done, const OnImage& on_image) {
  const auto factor = context.model.vae.scale_factor();
  PictureDecoder decoder(context, decode_steps(context.model, chunk, done));
  for (; done < latents.size(); ++done) {
    const auto& picture = chunk.pictures[done];
    const auto& request = chunk.request(picture);
    const auto grid =
        unpack_latents(latents[done], request.height / factor, request.width / factor);
    on_image(picture.request, picture.index,
             to_image(decoder.decode(grid, tiles_of(context.model, request))));
  }
}

}  // namespace steadyflux
