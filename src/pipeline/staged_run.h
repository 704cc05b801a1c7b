// Makes progressive pictures: all of them in their first stage, then in the next, as far as memory
// allows.
#pragma once

#include <span>

#include "steadyflux/pipeline.h"

namespace steadyflux {

// As Pipeline::generate, for requests with equally many stages. A stage that does not fit any more
// is made in the largest size that does; where even that fails, what there is is the result, with
// a warning.
void generate_in_stages(Pipeline& pipeline, std::int64_t multiple,
                        std::span<const Request> requests, Observer& observer,
                        const OnImage& on_image, PromptEmbedsStore* embeds, LatentsStore* latents);

}  // namespace steadyflux
