// The phase of pictures that go in: what denoising begins from (image to image), and what the
// transformer is shown in every step (Kontext, Fill, Depth, Canny).
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

using Role = ConditionImage::Role;

// [H, W, 3] bytes, a view.
at::Tensor rows_of(const Image& image) {
  return at::from_blob(const_cast<std::uint8_t*>(image.rgb.data()), {image.height, image.width, 3},
                       at::kByte);
}

// [H, W, 1] bytes, a view.
at::Tensor mask_of(const InitImage::Pixels& pixels) {
  return at::from_blob(const_cast<std::uint8_t*>(pixels.mask.data()),
                       {pixels.image.height, pixels.image.width, 1}, at::kByte);
}

// [H, W, 3] bytes -> [1, 3, H, W], -1..1, fp32.
at::Tensor pixels_of(const at::Tensor& rows) {
  const auto values = rows.permute({2, 0, 1}).unsqueeze(0).to(at::kFloat).div(255.0);
  return values.mul(2.0).sub(1.0);
}

// [H, W, 1] bytes -> [1, 1, H, W], fp32: 1 where it is painted anew, else 0.
at::Tensor painted_pixels(const at::Tensor& mask) {
  return mask.permute({2, 0, 1}).unsqueeze(0).ge(128).to(at::kFloat);
}

// Of one value for every cell of the latents, packed as they are: [1, S, out_channels].
at::Tensor pack_mask(const InitImage::Pixels& pixels, const at::Tensor& latents) {
  const auto cells = at::upsample_nearest2d(painted_pixels(mask_of(pixels)),
                                            at::IntArrayRef{latents.size(2), latents.size(3)});
  return pack_latents(cells.repeat({1, latents.size(1), 1, 1}).to(latents.scalar_type()));
}

// The factor x factor pixels of a cell as its channels, packed: [1, S, 4 factor^2].
at::Tensor pack_mask_pixels(const InitImage::Pixels& pixels, std::int64_t factor,
                            at::ScalarType dtype) {
  const auto height = pixels.image.height / factor, width = pixels.image.width / factor;
  const auto cells = painted_pixels(mask_of(pixels))
                         .view({1, height, factor, width, factor})
                         .permute({0, 2, 4, 1, 3})
                         .reshape({1, factor * factor, height, width});
  return pack_latents(cells.to(dtype));
}

// Draws what diffusers draws for a picture, in the order in which it is asked for.
class Drawn {
 public:
  Drawn(const PhaseContext& context, const Request& request, const ChunkPicture& picture)
      : context_(context),
        generator_(at::make_generator<at::CPUGeneratorImpl>(
            request.seed + static_cast<std::uint64_t>(picture.index))) {}

  at::Tensor noise(at::IntArrayRef sizes) {
    return at::randn(sizes, generator_, at::TensorOptions().dtype(context_.dtype));
  }
  // moments [1, 2 C, h, w], on the CPU -> latents [1, C, h, w] as the transformer takes them.
  at::Tensor sample(const at::Tensor& moments) {
    const auto parts = moments.chunk(2, 1);
    const auto deviation = at::exp(0.5 * parts[1].clamp(-30.0, 20.0));
    return scaled(parts[0] + deviation * noise(parts[0].sizes()));
  }
  // The most likely ones; nothing is drawn.
  at::Tensor mode(const at::Tensor& moments) const { return scaled(moments.chunk(2, 1)[0]); }

 private:
  at::Tensor scaled(const at::Tensor& latents) const {
    const auto& vae = context_.model.vae;
    return (latents - vae.shift_factor) * vae.scaling_factor;
  }

  const PhaseContext& context_;
  at::Generator generator_;
};

// Reads and encodes, tile by tile. Pictures of a request share theirs, and stand next to each
// other: the last one is held.
class ImageEncoder {
 public:
  struct Encoded {
    InitImage::Pixels pixels;
    at::Tensor moments;  // [1, 2 C, h, w], on the CPU
  };

  explicit ImageEncoder(const PhaseContext& context)
      : context_(context),
        vae_(context.model.vae),
        mode_{context.plan.vae_encoder.band_bytes, context.plan.vae_encoder.parked_in_ram} {
    const LoadTimer timer{context.load_seconds};
    load_slots(vae_encoder_source().open(context.model), vae_.slots(),
               load_options(context, Component::kVae));
  }

  const Encoded& encode_init(const Request& request) {
    if (held_ != request.init_image) {
      encoded_.pixels = request.init_image->load();
      encode_pixels(tiles_of(context_.model, request), false);
      held_ = request.init_image;
    }
    return encoded_;
  }
  // Of kFill grey where it is filled in.
  const Encoded& encode_condition(const Request& request) {
    const auto& condition = request.condition;
    if (held_ != condition) {
      encoded_.pixels = condition->load();
      const bool whole = condition->role == Role::kReference;
      encode_pixels(whole ? TileGrid{} : tiles_of(context_.model, request),
                    condition->role == Role::kFill);
      held_ = condition;
    }
    return encoded_;
  }

 private:
  // `tiles` in packed tokens; none: as a whole.
  void encode_pixels(const TileGrid& tiles, bool blanked) {
    const auto rows = rows_of(encoded_.pixels.image);
    const auto mask = blanked ? mask_of(encoded_.pixels) : at::Tensor();
    if (tiles.count() <= 1) {
      encoded_.moments = encode_whole(rows, mask);
      return;
    }
    const auto grid = tiles.scaled(2);
    const auto pixels = grid.scaled(context_.model.vae.scale_factor());
    TileBlend blend(grid, 2 * context_.model.vae.latent_channels);
    for (std::int64_t i = 0; i < grid.count(); ++i) {
      throw_if_interrupted(context_.observer);
      const auto moments = encode_whole(cut_tile(rows, pixels, i),
                                        blanked ? cut_tile(mask, pixels, i) : at::Tensor());
      blend.add(i, moments.squeeze(0).permute({1, 2, 0}));
    }
    encoded_.moments =
        blend.whole().permute({2, 0, 1}).unsqueeze(0).to(context_.dtype).contiguous();
  }

  // rows [H, W, 3] and mask [H, W, 1] bytes; undefined: nothing is blanked.
  at::Tensor encode_whole(const at::Tensor& rows, const at::Tensor& mask) {
    auto values = pixels_of(rows);
    if (mask.defined()) values = values * (1.0 - painted_pixels(mask));
    values = values.to(context_.dtype).contiguous();
    const auto moments = vae_.encode(values.to(context_.device), mode_).to(at::kCPU);
    expect_finite(context_, moments, vae_encoder_source());
    return moments;
  }

  const PhaseContext& context_;
  AutoencoderKlEncoder vae_;
  BandMode mode_;
  std::shared_ptr<const void> held_;
  Encoded encoded_;
};

// What one picture gets of this phase.
class PictureInputs {
 public:
  PictureInputs(const PhaseContext& context, const Chunk& chunk, Denoising& state,
                std::size_t number)
      : context_(context),
        chunk_(chunk),
        state_(state),
        number_(number),
        request_(chunk.request(chunk.pictures[number])),
        latents_(state.latents[number]),
        drawn_(context, request_, chunk.pictures[number]) {}

  void begin_from_image(ImageEncoder& encoder) {
    auto& inpainting = state_.inpainting[number_];
    const bool lacks_mask = !request_.init_image->mask.empty() && !inpainting.mask.defined();
    if (latents_.defined() && !lacks_mask) return;
    const auto& [pixels, moments] = encoder.encode_init(request_);
    const auto image = drawn_.sample(moments);
    const auto noise = drawn_.noise(image.sizes());
    if (!latents_.defined()) {
      const auto sigmas = sigmas_to_do(context_.model, request_);
      latents_ = pack_latents(scale_noise(image, sigmas.front(), noise));
    }
    if (!lacks_mask) return;
    inpainting = {pack_mask(pixels, image), pack_latents(image), pack_latents(noise)};
  }

  void show(ImageEncoder& encoder) {
    auto& shown = state_.conditioning[number_];
    if (shown.defined()) return;
    switch (request_.condition->role) {
      case Role::kReference:
        shown.tokens = reference(encoder);
        break;
      case Role::kControl: {
        const auto& [pixels, moments] = encoder.encode_condition(request_);
        const auto control = drawn_.sample(moments);
        begin_from(drawn_.noise(control.sizes()));
        shown.channels = pack_latents(control);
        break;
      }
      case Role::kFill: {
        const auto& [pixels, moments] = encoder.encode_condition(request_);
        // Diffusers also samples latents of the whole picture, of which pure noise leaves nothing.
        const auto sizes = moments.chunk(2, 1)[0].sizes().vec();
        drawn_.noise(sizes);
        begin_from(drawn_.noise(sizes));
        const auto mask =
            pack_mask_pixels(pixels, context_.model.vae.scale_factor(), context_.dtype);
        shown.channels = at::cat({pack_latents(drawn_.sample(moments)), mask}, 2);
        break;
      }
    }
  }

 private:
  // Where latents were saved, denoising goes on from those.
  void begin_from(const at::Tensor& noise) {
    if (!latents_.defined()) latents_ = pack_latents(noise);
  }

  // Nothing in it is drawn: that of the picture before does as well.
  at::Tensor reference(ImageEncoder& encoder) const {
    if (number_ > 0) {
      const auto& before = chunk_.request(chunk_.pictures[number_ - 1]);
      if (before.condition == request_.condition) return state_.conditioning[number_ - 1].tokens;
    }
    return pack_latents(drawn_.mode(encoder.encode_condition(request_).moments));
  }

  const PhaseContext& context_;
  const Chunk& chunk_;
  Denoising& state_;
  std::size_t number_;
  const Request& request_;
  at::Tensor& latents_;
  Drawn drawn_;
};

bool has_image(const Request& request) { return request.init_image || request.condition; }

}  // namespace

at::Tensor Inpainting::keep_unmasked(const at::Tensor& latents, float sigma) const {
  const auto kept = sigma > 0 ? scale_noise(image_latents, sigma, noise) : image_latents;
  return (1.0 - mask) * kept + mask * latents;
}

at::Tensor Conditioning::hidden_states(const at::Tensor& latents) const {
  if (channels.defined()) return at::cat({latents, channels.to(latents.device())}, 2);
  return tokens.defined() ? at::cat({latents, tokens.to(latents.device())}, 1) : latents;
}

std::int64_t encode_image_steps(const Chunk& chunk) {
  return std::count_if(chunk.pictures.begin(), chunk.pictures.end(),
                       [&](const auto& picture) { return has_image(chunk.request(picture)); });
}

void encode_images(const PhaseContext& context, const Chunk& chunk, Denoising& state) {
  ImageEncoder encoder(context);
  state.latents.resize(chunk.pictures.size());
  state.inpainting.resize(chunk.pictures.size());
  state.conditioning.resize(chunk.pictures.size());
  std::int64_t done = 0;
  for (std::size_t i = 0; i < chunk.pictures.size(); ++i) {
    const auto& request = chunk.request(chunk.pictures[i]);
    if (!has_image(request)) continue;
    context.observer.phase_progress(done++);
    throw_if_interrupted(context.observer);
    PictureInputs inputs(context, chunk, state, i);
    if (request.init_image) inputs.begin_from_image(encoder);
    if (request.condition) inputs.show(encoder);
  }
  context.observer.phase_progress(done);
}

}  // namespace steadyflux
