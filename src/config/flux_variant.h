// The models that share FLUX.1's transformer, told apart by what goes into it beside the noise.
#pragma once

#include <cstdint>
#include <string>

namespace steadyflux {

// FLUX.1 Krea is a dev.
enum class FluxVariant {
  kSchnell,  // no guidance embedding
  kDev,
  kKontext,  // shown a reference as more tokens; the tensors are those of dev
  kFill,     // a masked picture and its mask as more channels
  kControl,  // Depth, Canny: a control picture as more channels
};

// Told by the channels that go in and out; never kKontext, which has those of dev.
FluxVariant variant_of_channels(std::int64_t in_channels, std::int64_t out_channels,
                                bool guidance_embeds);

// "FLUX.1-Fill", for people.
std::string to_string(FluxVariant variant);
// "fill", as `inspect` and `doctor` have it.
std::string short_name(FluxVariant variant);

}  // namespace steadyflux
