// What decoding or encoding one picture takes of memory, from the VAE's configuration alone. It
// goes through decoder or encoder layer by layer and books every tensor of src/vae as it comes and
// goes.
#pragma once

#include <cstdint>

#include "config/model_config.h"

namespace steadyflux {

struct VaeFootprint {
  std::int64_t weight_bytes = 0;
  // Tensors alive at the peak, without weights and the latents that are decoded, with the picture.
  // Without a device all of them are in host_peak.
  std::int64_t device_peak = 0;
  std::int64_t host_peak = 0;
  std::int64_t band_rows = 0;  // of the layer with the most values, in rows of pixels
  bool tiled = false;          // some layer is worked off in more than one band
};

// latents [1, latent_channels, latent_h, latent_w]; element_size: bytes of a value. On a device the
// attention is taken to need no score matrix; on the CPU in 16 bits there is a copy of all keys and
// values, which its threads share; `widened`: it multiplies them in fp32 only. Not counted: what
// the libraries behind libtorch take for themselves (on the CPU, a convolution's weights once more,
// see vae_largest_weight_bytes).
VaeFootprint vae_decode_footprint(const AutoencoderKlConfig& config, std::int64_t latent_h,
                                  std::int64_t latent_w, std::int64_t element_size,
                                  std::int64_t band_bytes, bool has_device, bool park_on_host,
                                  bool widened = false);

// What encoding one picture of height x width pixels takes, the picture's tensor included.
VaeFootprint vae_encode_footprint(const AutoencoderKlConfig& config, std::int64_t height,
                                  std::int64_t width, std::int64_t element_size,
                                  std::int64_t band_bytes, bool has_device, bool park_on_host,
                                  bool widened = false);

std::int64_t vae_encoder_weight_bytes(const AutoencoderKlConfig& config, std::int64_t element_size);
std::int64_t vae_decoder_weight_bytes(const AutoencoderKlConfig& config, std::int64_t element_size);

// Of one convolution.
std::int64_t vae_largest_weight_bytes(const AutoencoderKlConfig& config, std::int64_t element_size);

// Smaller bands than these would take no less.
std::int64_t vae_smallest_band_bytes(const AutoencoderKlConfig& config, std::int64_t element_size);

}  // namespace steadyflux
