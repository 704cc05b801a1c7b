// Times denoising steps of a transformer on disk, and the machine's GEMM roof in the same process.
// Prints one JSON line. Use: step_bench TRANSFORMER WIDTH HEIGHT TEXT_TOKENS REPEATS THREADS
// [DTYPE [COMPUTE]], where TRANSFORMER is a component folder or a single file, packed or not,
// computed with in bf16 or fp32, with products of blocks as --compute has them; 0 REPEATS are turns
// (turns.h). The inputs are random; only the time counts. One step more tells which share of it
// each operator takes. benchmarks/compare.sh runs it beside diffusers.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "checkpoints/open_model.h"
#include "memory/release.h"
#include "nn/load.h"
#include "nn/reused_buffers.h"
#include "operator_times.h"
#include "transformer/flux_transformer.h"
#include "turns.h"

using namespace steadyflux;

namespace {

// Best GFLOP/s of a GEMM of the block's own shape: [tokens, dim] x [dim, 4 dim].
double gemm_roof(std::int64_t tokens, std::int64_t dim, at::ScalarType dtype) {
  const auto a = at::randn({tokens, dim}, dtype);
  const auto w = at::randn({4 * dim, dim}, dtype);
  double best = 1e30;
  for (int i = 0; i < 8; ++i) best = std::min(best, seconds([&] { at::linear(a, w); }));
  return 2.0 * static_cast<double>(tokens * dim * 4 * dim) / best / 1e9;
}

// Floating-point operations of one step, modulation left out (it is a vector, not a picture).
double step_flops(const FluxTransformerConfig& c, double image, double text) {
  const auto d = static_cast<double>(c.inner_dim());
  const double s = image + text;
  const double linear = s * 12 * d * d;    // per block: q, k, v, out (4) + MLP (8)
  const double attention = 2 * s * s * d;  // q k^T and p v
  const double blocks = static_cast<double>(c.num_layers + c.num_single_layers);
  return 2 * blocks * (linear + attention);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 7 || argc > 9) {
    fmt::print(stderr,
               "use: step_bench TRANSFORMER WIDTH HEIGHT TEXT REPEATS THREADS [DTYPE [COMPUTE]]\n");
    return 2;
  }
  return_large_blocks_at_once();  // as steadyflux does
  const c10::InferenceMode inference_mode;
  const std::filesystem::path path = argv[1];
  const auto width = std::atoll(argv[2]) / 16, height = std::atoll(argv[3]) / 16;
  const auto text = std::atoll(argv[4]);
  at::set_num_threads(std::atoi(argv[6]));
  const auto compute = compute_of_name(argc > 8 ? argv[8] : "auto").value();
  FluxTransformer transformer(transformer_config(path), compute);
  const auto& config = transformer.config;
  LoadOptions options;
  options.dtype = argc > 7 && std::string_view(argv[7]) == "fp32" ? at::kFloat : at::kBFloat16;
  load_slots(ComponentWeights::open(path, Component::kTransformer), transformer.slots(), options);

  const auto tokens = width * height;
  const auto x = at::randn({1, tokens, config.in_channels}, options.dtype);
  const auto prompt = at::randn({1, text, config.joint_attention_dim}, options.dtype);
  const auto pooled = at::randn({1, config.pooled_projection_dim}, options.dtype);
  const auto timestep = at::full({1}, 0.75, options.dtype);
  const auto guidance = config.guidance_embeds ? at::full({1}, 3.5, at::kFloat) : at::Tensor();
  const auto rope =
      make_rotary_embedding(make_position_ids(text, {height, width}), config.axes_dims_rope);
  // As when pictures are made: the modulations are there already.
  const auto modulations = transformer.modulations(timestep, guidance, pooled);
  const ReusedBuffers reused;  // from step to step, as there
  const auto step = [&] {
    transformer.forward(FluxTransformer::Input{x, prompt, modulations, rope});
  };
  const double first = seconds(step);
  const auto times = timed_runs(std::atoi(argv[5]), step);
  nlohmann::json profile;
  {
    const OperatorTimes operators;
    const double profiled = seconds(step);
    for (const auto& [name, share] : operators.seconds()) {
      if (share > 5e-4 * profiled) profile[name] = share / profiled;
    }
  }
  const double best = times.empty() ? first : *std::min_element(times.begin(), times.end());
  const double roof = gemm_roof(tokens + text, config.inner_dim(), options.dtype);
  const double rate =
      step_flops(config, static_cast<double>(tokens), static_cast<double>(text)) / best / 1e9;
  fmt::print("{}\n", nlohmann::json{{"program", "steadyflux"},
                                    {"first_s", first},
                                    {"step_s", times},
                                    {"shares", profile},
                                    {"gflops", rate},
                                    {"gemm_gflops", roof},
                                    {"of_roof", rate / roof}}
                         .dump());
  return 0;
}
