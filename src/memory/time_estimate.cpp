#include "memory/time_estimate.h"

#include <fmt/format.h>

#include <algorithm>

#include "config/tiles.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

double real(std::int64_t value) { return static_cast<double>(value); }

// Of a 3x3 convolution, for each pixel.
double convolution(double in, double out) { return 2 * 9 * in * out; }

double resnet(double in, double out) { return convolution(in, out) + convolution(out, out); }

double phase_flops(const FluxModel& model, const Plan& plan, const PhasePlan& phase,
                   double layers_factor) {
  const auto& work = plan.workload;
  const auto token = 2 * model.vae.scale_factor();
  const auto tiles = work.tiles(token);
  const double through_vae = real(tiles.count()) * vae_flops(model.vae, tiles.tile_width * token,
                                                             tiles.tile_height * token);
  if (phase.name == "encode") {
    const double texts =
        real(work.num_encoded) * t5_flops(model.text_encoder_2, work.max_sequence_length);
    if (work.num_redux_images == 0) return texts;
    return texts + real(work.num_redux_images) * redux_flops(model.redux.value());
  }
  if (phase.name == "encode_image") {
    return real(work.num_init_images + work.num_conditions + work.num_references) * through_vae;
  }
  if (phase.name == "decode") {
    return real(work.num_images) * through_vae;
  }
  if (phase.name != "denoise") return 0;  // modulate: a few rows, so its weights' bytes count
  return real(work.num_images + work.num_guided) * real(work.evaluations()) * real(tiles.count()) *
         transformer_flops(model.transformer, work.text_len(),
                           tiles.tile_width * tiles.tile_height + work.reference_tokens(token),
                           layers_factor);
}

}  // namespace

double transformer_flops(const FluxTransformerConfig& config, std::int64_t text_len,
                         std::int64_t image_len, double layers_factor) {
  const double d = real(config.inner_dim()), s = real(text_len + image_len);
  const double linear = s * 12 * d * d;    // a block: q, k, v, out (4), MLP (8)
  const double attention = 2 * s * s * d;  // q k^T and p v
  return 2 * real(config.num_layers + config.num_single_layers) *
         (layers_factor * linear + attention);
}

double t5_flops(const T5Config& config, std::int64_t max_sequence_length) {
  const double d = real(config.d_model), inner = real(config.num_heads * config.d_kv);
  const double s = real(max_sequence_length);
  const double linear = s * (4 * d * inner + 3 * d * real(config.d_ff));
  return 2 * real(config.num_layers) * (linear + 2 * s * s * inner);
}

double redux_flops(const ReduxConfig& config) {
  const auto& encoder = config.image_encoder;
  const double d = real(encoder.hidden_size), s = real(encoder.num_patches());
  const double layer = s * (4 * d * d + 2 * d * real(encoder.intermediate_size)) + 2 * s * s * d;
  const double embedder =
      s * real(config.image_embedder.inner_dim()) *
      real(config.image_embedder.redux_dim + config.image_embedder.txt_in_features);
  return 2 * (real(encoder.num_hidden_layers) * layer + embedder);
}

double vae_flops(const AutoencoderKlConfig& config, std::int64_t width, std::int64_t height) {
  const auto& widths = config.block_out_channels;
  double pixels = real(width * height) / real(config.scale_factor() * config.scale_factor());
  double channels = real(widths.back());
  double flops = pixels * (convolution(real(config.latent_channels), channels) +
                           2 * resnet(channels, channels));
  if (config.mid_block_add_attention) {
    flops += 2 * pixels * (4 * channels * channels + 2 * pixels * channels);
  }
  for (std::size_t level = widths.size(); level > 0; --level) {
    const double out = real(widths[level - 1]);
    flops += pixels * (resnet(channels, out) + real(config.layers_per_block) * resnet(out, out));
    channels = out;
    if (level == 1) break;
    pixels *= 4;
    flops += pixels * convolution(channels, channels);
  }
  return flops + pixels * convolution(channels, real(config.out_channels));
}

double estimated_seconds(const FluxModel& model, const Plan& plan, const MachineSpeed& speed) {
  double seconds = 0;
  for (const auto& phase : plan.phases) {
    const double computing = phase_flops(model, plan, phase, speed.layers_factor) / speed.flops;
    const double moving = real(phase.disk_read_bytes) / speed.disk_bytes +
                          real(phase.host_copy_bytes) / speed.copy_bytes;
    const bool in_turn =
        std::any_of(phase.weights.begin(), phase.weights.end(),
                    [](const WeightsPlan& weights) { return weights.buffers == 1; });
    seconds += in_turn ? computing + moving : std::max(computing, moving);
  }
  return seconds;
}

double seconds_a_picture(const FluxModel& model, const Plan& plan, const MachineSpeed& speed) {
  return estimated_seconds(model, plan, speed) /
         real(std::max<std::int64_t>(plan.workload.num_images, 1));
}

std::function<bool(const Plan&)> within_seconds(const FluxModel& model, const MachineSpeed& speed,
                                                double most) {
  return [&model, speed, most](const Plan& plan) {
    return seconds_a_picture(model, plan, speed) <= most;
  };
}

void throw_if_too_slow(const FluxModel& model, const Plan& smallest, const MachineSpeed& speed,
                       double most) {
  if (!smallest.fits) return;
  const double seconds = seconds_a_picture(model, smallest, speed);
  if (seconds <= most) return;
  throw Error(ErrorKind::kUsage,
              fmt::format("--max-seconds {}: even a picture of {} x {} takes about {:.2g} seconds "
                          "here; allow more, or take fewer steps",
                          most, smallest.workload.width, smallest.workload.height, seconds));
}

}  // namespace steadyflux
