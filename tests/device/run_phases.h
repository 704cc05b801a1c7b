// The three phases on a device of choice, as the pipeline runs them, with all that they give.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "pipeline/device.h"
#include "pipeline/phases.h"
#include "simulated_device/simulated_device.h"

namespace steadyflux::testing {

struct PhaseResults {
  PromptEmbeddings embeddings;
  std::vector<at::Tensor> latents;
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

// `after_phase` is told when a phase has returned, with what there is by then.
inline PhaseResults run_phases(
    const ModelFolder& model, c10::Device device, at::ScalarType dtype, const Request& request,
    const std::function<void(const char* phase, const PhaseResults&)>& after_phase = {}) {
  const c10::InferenceMode inference_mode;
  Observer observer;
  double load_seconds = 0;
  const PhaseContext context{model, device, dtype, observer, load_seconds};
  const auto tell = [&](const char* phase, const PhaseResults& results) {
    if (after_phase) after_phase(phase, results);
  };
  PhaseResults results;
  results.embeddings = encode_prompt(context, request.prompt, request.max_sequence_length);
  tell("encode", results);
  results.latents = denoise(context, request, results.embeddings);
  tell("denoise", results);
  decode(context, request, results.latents,
         [&](std::int64_t, Image image) { results.images.push_back(std::move(image)); });
  tell("decode", results);
  return results;
}

}  // namespace steadyflux::testing
