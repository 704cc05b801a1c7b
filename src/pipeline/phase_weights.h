// What the phases share: where a component's weights are, and how a plan has them opened.
#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "nn/load.h"
#include "pipeline/phases.h"
#include "residency/streamed_weights.h"
#include "weights/read_ahead.h"

namespace steadyflux {

void throw_if_interrupted(Observer& observer);

// A component's weights: what plans call them, where they are, and what we do not want of them.
struct WeightsSource {
  const char* name;
  Component component;
  std::filesystem::path FluxModel::Paths::*path;
  std::vector<std::string> ignored_prefixes = {};

  const std::filesystem::path& path_in(const FluxModel& model) const { return model.paths.*path; }
  ComponentWeights open(const FluxModel& model) const {
    return ComponentWeights::open(path_in(model), component);
  }
};

WeightsSource clip_source();
WeightsSource t5_source();
WeightsSource image_encoder_source();
WeightsSource image_embedder_source();
WeightsSource transformer_source();
WeightsSource vae_source();  // its decoder
WeightsSource vae_encoder_source();

// Adds the time it lives to the time spent loading.
struct LoadTimer {
  double& seconds;
  std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  ~LoadTimer() {
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
};

LoadOptions load_options(const PhaseContext& context, Component component);

// Throws Error{kInternal} if the plan does not have them.
const WeightsPlan& weights_plan(const Plan& plan, const std::string& phase,
                                const std::string& component);

// Weights of a component, as the plan has them: `fixed` in place, `units` streamed.
std::unique_ptr<StreamedWeights> open_weights(const PhaseContext& context,
                                              const WeightsSource& source,
                                              const std::vector<TensorSlot>& fixed,
                                              const std::vector<WeightUnit>& units,
                                              const WeightsPlan& plan);

// Reads what the plan has in place of T5 and then of the transformer from the disk ahead, as far as
// RAM has room for it beside encoding. Null where there is none, or T5 itself is streamed.
std::unique_ptr<ReadAhead> read_ahead_while_encoding(const FluxModel& model, const Plan& plan);

// NaN and infinity spread to the whole picture, which would be black: better to say where they
// began. Throws Error{kBadInput}.
void expect_finite(const PhaseContext& context, const at::Tensor& values,
                   const WeightsSource& source);

// body(first, count) for group after group of `members`.
template <typename Body>
void for_groups(std::size_t members, std::int64_t group, Body body) {
  const auto size = static_cast<std::size_t>(group);
  for (std::size_t first = 0; first < members; first += size) {
    body(first, std::min(size, members - first));
  }
}

inline std::int64_t group_count(std::size_t members, std::int64_t group) {
  return (static_cast<std::int64_t>(members) + group - 1) / group;
}

}  // namespace steadyflux
