#include "pipeline/control_lora.h"

#include <fmt/format.h>

#include "lora/lora_file.h"
#include "steadyflux/error.h"

namespace steadyflux {

FluxModel with_loras(const FluxModel& model, std::span<const LoraUse> loras) {
  FluxModel result = model;
  auto& config = result.transformer;
  for (const auto& use : loras) {
    const auto channels = input_channels(read_lora(use.path));
    if (channels <= config.in_channels) continue;  // checked with all other shapes
    if (config.in_channels != config.out_channels || channels != 2 * config.out_channels) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{}: is for a transformer that {} channels go into, and into that of "
                              "{} go {}; Control LoRAs (depth, canny) make {} of {}",
                              use.path.string(), channels, model.name, config.in_channels,
                              2 * config.out_channels, config.out_channels));
    }
    config.widened_from = config.in_channels;
    config.in_channels = channels;
  }
  return result;
}

}  // namespace steadyflux
