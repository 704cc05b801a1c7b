// Times encodings of the T5 encoder of a model on disk, weights resident. Prints one JSON line.
// Use: text_bench MODEL_FOLDER TEXT_TOKENS REPEATS THREADS [bf16|fp32]; 0 REPEATS are turns
// (turns.h). benchmarks/compare.sh runs it beside transformers (diffusers_text.py).
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "checkpoints/open_model.h"
#include "memory/release.h"
#include "nn/load.h"
#include "text_encoder/t5_encoder.h"
#include "turns.h"

using namespace steadyflux;

int main(int argc, char** argv) {
  if (argc != 5 && argc != 6) {
    fmt::print(stderr, "use: text_bench MODEL_FOLDER TEXT_TOKENS REPEATS THREADS [bf16|fp32]\n");
    return 2;
  }
  return_large_blocks_at_once();  // as steadyflux does
  const c10::InferenceMode inference_mode;
  const auto model = open_model(argv[1]);
  at::set_num_threads(std::atoi(argv[4]));
  T5Encoder encoder(model.text_encoder_2);
  LoadOptions options;
  options.dtype = argc == 6 && std::string_view(argv[5]) == "fp32" ? at::kFloat : at::kBFloat16;
  load_slots(ComponentWeights::open(model.paths.text_encoder_2, Component::kTextEncoder2),
             encoder.slots(), options);
  const auto ids = at::arange(2, std::atoll(argv[2]) + 2, at::kLong).unsqueeze(0);
  const auto encode = [&] { encoder.forward(ids); };
  encode();
  const auto taken = timed_runs(std::atoi(argv[3]), encode);
  fmt::print("{}\n", nlohmann::json{{"seconds", taken}}.dump());
  return 0;
}
