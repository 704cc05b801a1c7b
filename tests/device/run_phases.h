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
#include "pipeline/phases.h"
#include "simulated_device/simulated_device.h"

namespace steadyflux::testing {

struct PhaseResults {
  PromptEmbeddings embeddings;
  Denoising denoising;
  std::vector<Image> images;
};

inline ModelFolder golden_model(const std::string& name) {
  return ModelFolder::open(std::filesystem::path(STEADYFLUX_SOURCE_DIR) / "tests/goldens" / name /
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

inline Workload workload_of(const Request& request, at::ScalarType dtype) {
  Workload workload{.width = request.width,
                    .height = request.height,
                    .num_inference_steps = request.num_inference_steps,
                    .num_images = request.num_images,
                    .max_sequence_length = request.max_sequence_length,
                    .dtype = dtype == at::kFloat  ? "fp32"
                             : dtype == at::kHalf ? "fp16"
                                                  : "bf16",
                    .stored = {}};
  // The goldens' models are in fp32.
  workload.stored = {"fp32", "fp32", "fp32", "fp32"};
  return workload;
}

// The process is not part of these budgets: they are for tensors alone.
inline Budget tensor_budget(c10::Device device, std::int64_t vram, std::int64_t ram) {
  return {.has_device = !device.is_cpu(), .vram = vram, .ram = ram};
}

constexpr std::int64_t kPlenty = std::int64_t{1} << 40;

inline Plan roomy_plan(const ModelFolder& model, c10::Device device, at::ScalarType dtype,
                       const Request& request) {
  return make_plan(model, workload_of(request, dtype), tensor_budget(device, kPlenty, kPlenty));
}

// `after_phase` is told when a phase has returned, with what there is by then.
inline PhaseResults run_phases(
    const ModelFolder& model, c10::Device device, at::ScalarType dtype, const Request& request,
    const Plan& plan,
    const std::function<void(const char* phase, const PhaseResults&)>& after_phase = {}) {
  const c10::InferenceMode inference_mode;
  Observer observer;
  double load_seconds = 0;
  const PhaseContext context{model, device, dtype, observer, load_seconds, plan};
  const auto tell = [&](const char* phase, const PhaseResults& results) {
    if (after_phase) after_phase(phase, results);
  };
  PhaseResults results;
  results.embeddings = encode_prompt(context, request.prompt, request.max_sequence_length);
  tell("encode", results);
  for (std::int64_t step = 0; step < request.num_inference_steps;) {
    const auto table = modulate(context, request, results.embeddings, step);
    tell("modulate", results);
    denoise(context, request, results.embeddings, table, results.denoising);
    tell("denoise", results);
    step += table.rows.size(0);
  }
  std::size_t decoded = 0;
  decode(context, request, results.denoising.latents, decoded,
         [&](std::int64_t, Image image) { results.images.push_back(std::move(image)); });
  tell("decode", results);
  return results;
}

inline PhaseResults run_phases(
    const ModelFolder& model, c10::Device device, at::ScalarType dtype, const Request& request,
    const std::function<void(const char* phase, const PhaseResults&)>& after_phase = {}) {
  return run_phases(model, device, dtype, request, roomy_plan(model, device, dtype, request),
                    after_phase);
}

}  // namespace steadyflux::testing
