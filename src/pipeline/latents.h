// Latents between their two shapes: a grid [B, C, h, w] for the VAE, and packed 2x2 patches
// [B, (h/2)(w/2), 4C] for the transformer (diffusers: pipeline_flux.py).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace steadyflux {

// sigma noise + (1 - sigma) image, in the dtype of the tensors: diffusers' scale_noise.
at::Tensor scale_noise(const at::Tensor& image, float sigma, const at::Tensor& noise);

// Channel order in a packed token: (channel, row in patch, column in patch). h and w are even.
at::Tensor pack_latents(const at::Tensor& latents);
// height, width: of the grid, in latent pixels.
at::Tensor unpack_latents(const at::Tensor& packed, std::int64_t height, std::int64_t width);

// Packed Gaussian noise of one picture, [1, (h/2)(w/2), 4 * channels], drawn on the CPU in `dtype`
// from a generator seeded with `seed`: the numbers torch.Generator("cpu") gives in Python.
at::Tensor prepare_latents(std::int64_t channels, std::int64_t height, std::int64_t width,
                           std::uint64_t seed, at::ScalarType dtype);

}  // namespace steadyflux
