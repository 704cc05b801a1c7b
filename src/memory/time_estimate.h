// About how long a plan takes, from its operations and the bytes it moves: an estimate, for
// choosing a size (--max-seconds). docs/memory.md says what it leaves out.
#pragma once

#include <functional>

#include "config/model_config.h"
#include "memory/plan.h"

namespace steadyflux {

struct MachineSpeed {
  double flops = 0;  // a second, of large products of matrices; above 0
  // How long layers of blocks take beside as many operations of that kind (--compute).
  double layers_factor = 1;
  // Not measured but assumed: of a disk, and of pinned RAM to a card.
  double disk_bytes = 1.5e9;   // a second
  double copy_bytes = 12.0e9;  // a second
};

// Floating-point operations of one call of the transformer for one picture: products of matrices,
// each counted `layers_factor` times, and attention, without modulations.
double transformer_flops(const FluxTransformerConfig& config, std::int64_t text_len,
                         std::int64_t image_len, double layers_factor = 1);
// Of encoding one prompt with T5; CLIP is small beside it.
double t5_flops(const T5Config& config, std::int64_t max_sequence_length);
// Of making one picture's tokens.
double redux_flops(const ReduxConfig& config);
// Of decoding one picture: convolutions, and attention in the middle. Encoding takes about as much.
double vae_flops(const AutoencoderKlConfig& config, std::int64_t width, std::int64_t height);

// Seconds for all pictures of the plan. A phase takes the longer of computing and moving, and both
// where there is room for one buffer only.
double estimated_seconds(const FluxModel& model, const Plan& plan, const MachineSpeed& speed);
double seconds_a_picture(const FluxModel& model, const Plan& plan, const MachineSpeed& speed);

// For largest_size: plans whose pictures take `most` seconds each or less. `model` has to outlive
// it.
std::function<bool(const Plan&)> within_seconds(const FluxModel& model, const MachineSpeed& speed,
                                                double most);

// When largest_size found nothing: throws Error{kUsage} if it is for the time, which `smallest`,
// the plan of the smallest picture, shows.
void throw_if_too_slow(const FluxModel& model, const Plan& smallest, const MachineSpeed& speed,
                       double most);

}  // namespace steadyflux
