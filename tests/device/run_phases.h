// The phases on a device of choice, as the pipeline runs them, with all that they give.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "memory/plan.h"
#include "pipeline/device.h"
#include "pipeline/dtypes.h"
#include "pipeline/phases.h"
#include "pipeline/workload.h"
#include "simulated_device/simulated_device.h"

namespace steadyflux::testing {

struct PhaseResults {
  std::vector<PromptEmbeddings> embeddings;  // until decoding begins
  Denoising denoising;
  std::vector<Image> images;
};

inline FluxModel golden_model(const std::string& name) {
  return FluxModel::open(std::filesystem::path(STEADYFLUX_SOURCE_DIR) / "tests/goldens" / name /
                         "model");
}

// Small, but with text and picture of different lengths and two pictures.
inline Request small_request() {
  return {.prompt = "A red apple & three blue birds, isn't it?",
          .width = 48,
          .height = 32,
          .num_inference_steps = 2,
          .guidance_scale = 3.5,
          .seed = 7,
          .num_images = 2,
          .max_sequence_length = 24};
}

inline StoredModel fp32_model() {
  const StoredWeights fp32{.dtype = "fp32"};
  return {fp32, fp32, fp32, fp32};
}

inline Workload workload_of(const FluxModel& model, const std::vector<Request>& requests,
                            at::ScalarType dtype) {
  // The goldens' models are in fp32.
  return make_workload(make_chunk(model, requests), fp32_model(), dtype_name(dtype), 1);
}

// The process is not part of these budgets: they are for tensors alone.
inline Budget tensor_budget(c10::Device device, std::int64_t vram, std::int64_t ram) {
  return {.has_device = !device.is_cpu(), .vram = vram, .ram = ram};
}

constexpr std::int64_t kPlenty = std::int64_t{1} << 40;

inline Plan roomy_plan(const FluxModel& model, c10::Device device, at::ScalarType dtype,
                       const std::vector<Request>& requests) {
  return make_plan(model, workload_of(model, requests, dtype),
                   tensor_budget(device, kPlenty, kPlenty));
}

// `after_phase` is told when a phase has returned, with what there is by then.
inline PhaseResults run_phases(
    const FluxModel& model, c10::Device device, at::ScalarType dtype,
    const std::vector<Request>& requests, const Plan& plan,
    const std::function<void(const char* phase, const PhaseResults&)>& after_phase = {}) {
  const c10::InferenceMode inference_mode;
  Observer observer;
  double load_seconds = 0;
  const PhaseContext context{model, device, dtype, observer, load_seconds, plan};
  const auto chunk = make_chunk(model, requests);
  const auto tell = [&](const char* phase, const PhaseResults& results) {
    if (after_phase) after_phase(phase, results);
  };
  PhaseResults results;
  encode(context, chunk, results.embeddings);
  tell("encode", results);
  for (std::int64_t step = 0; step < plan.workload.num_inference_steps;) {
    const auto tables = modulate(context, chunk, results.embeddings, step);
    tell("modulate", results);
    denoise(context, chunk, results.embeddings, tables, results.denoising);
    tell("denoise", results);
    step = tables.end;
  }
  results.embeddings.clear();
  std::size_t decoded = 0;
  decode(
      context, chunk, results.denoising.latents, decoded,
      [&](std::size_t, std::int64_t, Image image) { results.images.push_back(std::move(image)); });
  tell("decode", results);
  return results;
}

inline PhaseResults run_phases(
    const FluxModel& model, c10::Device device, at::ScalarType dtype,
    const std::vector<Request>& requests,
    const std::function<void(const char* phase, const PhaseResults&)>& after_phase = {}) {
  return run_phases(model, device, dtype, requests, roomy_plan(model, device, dtype, requests),
                    after_phase);
}

}  // namespace steadyflux::testing
