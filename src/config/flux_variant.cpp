#include "config/flux_variant.h"

namespace steadyflux {

FluxVariant variant_of_channels(std::int64_t in_channels, std::int64_t out_channels,
                                bool guidance_embeds) {
  if (in_channels > 0 && in_channels == 6 * out_channels) return FluxVariant::kFill;
  if (in_channels > 0 && in_channels == 2 * out_channels) return FluxVariant::kControl;
  return guidance_embeds ? FluxVariant::kDev : FluxVariant::kSchnell;
}

std::string to_string(FluxVariant variant) {
  switch (variant) {
    case FluxVariant::kSchnell:
      return "FLUX.1-schnell";
    case FluxVariant::kDev:
      return "FLUX.1-dev";
    case FluxVariant::kKontext:
      return "FLUX.1-Kontext";
    case FluxVariant::kFill:
      return "FLUX.1-Fill";
    case FluxVariant::kControl:
      return "FLUX.1-Depth or -Canny";
  }
  return "FLUX.1";
}

std::string short_name(FluxVariant variant) {
  switch (variant) {
    case FluxVariant::kSchnell:
      return "schnell";
    case FluxVariant::kDev:
      return "dev";
    case FluxVariant::kKontext:
      return "kontext";
    case FluxVariant::kFill:
      return "fill";
    case FluxVariant::kControl:
      return "control";
  }
  return "dev";
}

}  // namespace steadyflux
