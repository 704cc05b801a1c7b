// The last phase: latents -> pixels.
#include <ATen/ATen.h>

#include <cstring>

#include "pipeline/latents.h"
#include "pipeline/phase_weights.h"
#include "pipeline/phases.h"
#include "vae/autoencoder_kl.h"

namespace steadyflux {

std::int64_t decode_steps(const FluxModel& model) {
  return AutoencoderKlDecoder(model.vae).num_stages();
}

void decode(const PhaseContext& context, const Chunk& chunk, const std::vector<at::Tensor>& latents,
            std::size_t& done, const OnImage& on_image) {
  const auto factor = context.model.vae.scale_factor();
  AutoencoderKlDecoder vae(context.model.vae);
  {
    const LoadTimer timer{context.load_seconds};
    load_slots(vae_source().open(context.model), vae.slots(),
               load_options(context, Component::kVae));
  }
  const BandMode mode{context.plan.vae.band_bytes, context.plan.vae.parked_in_ram};
  for (; done < latents.size(); ++done) {
    const auto& picture = chunk.pictures[done];
    const auto& request = chunk.request(picture);
    const auto grid = unpack_latents(latents[done].to(context.device), request.height / factor,
                                     request.width / factor);
    const auto before = static_cast<std::int64_t>(done) * vae.num_stages();
    const auto pixels = vae.decode(grid, mode, [&](std::int64_t stage) {
      context.observer.phase_progress(before + stage);
      throw_if_interrupted(context.observer);
    });
    expect_finite(context, pixels, vae_source());
    const auto rgb = to_rgb8(pixels);  // [1, H, W, 3]
    Image image{rgb.size(2), rgb.size(1), {}};
    image.rgb.resize(static_cast<std::size_t>(rgb.numel()));
    std::memcpy(image.rgb.data(), rgb.const_data_ptr(), image.rgb.size());
    on_image(picture.request, picture.index, std::move(image));
  }
}

}  // namespace steadyflux
