// True classifier-free guidance: what the transformer says of a picture with its prompt, and with a
// negative one, becomes one velocity.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <span>
#include <vector>

#include "pipeline/chunk.h"

namespace steadyflux {

// negative + scale (positive - negative), every operation rounded to their dtype, as diffusers'
// FluxPipeline does it.
at::Tensor true_cfg(const at::Tensor& positive, const at::Tensor& negative, double scale);

// One velocity for each of the pictures, which are told by their numbers (one in tiles may come
// several times). `predictions`: those of ChunkPicture::texts() of the first one, then of the
// second, ...
std::vector<at::Tensor> guided(const Chunk& chunk, std::span<const std::size_t> pictures,
                               std::vector<at::Tensor> predictions);

}  // namespace steadyflux
