// Part of the first phase: pictures -> tokens that stand behind those of prompts.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "pipeline/phases.h"

namespace steadyflux {

// One for each of chunk.redux_images, as Encoded has them; those that are there stay. `made` is
// called for each picture after each of the two models. Reads the pictures' files: throws what
// ReduxImage::load throws.
void encode_redux(const PhaseContext& context, const Chunk& chunk,
                  const std::function<void()>& made, std::vector<at::Tensor>& image_embeds);

}  // namespace steadyflux
