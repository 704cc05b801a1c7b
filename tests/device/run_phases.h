// The phases on a device of choice, as the pipeline runs them, with all that they give.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <filesystem>
#include <functional>
#include <memory>
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

// A picture of shades with a mask whose middle is light.
inline InitImage::Pixels shades(std::int64_t width, std::int64_t height) {
  InitImage::Pixels pixels{{width, height, {}}, {}};
  for (std::int64_t y = 0; y < height; ++y) {
    for (std::int64_t x = 0; x < width; ++x) {
      for (const auto value : {x * 255 / width, y * 255 / height, (x ^ y) & 255}) {
        pixels.image.rgb.push_back(static_cast<std::uint8_t>(value));
      }
      const bool middle = x > width / 4 && x < width / 2 && y > height / 4 && y < 3 * height / 4;
      pixels.mask.push_back(middle ? 255 : 0);
    }
  }
  return pixels;
}

// What a request is shown, in this size.
inline std::shared_ptr<const ConditionImage> shown(ConditionImage::Role role, std::int64_t width,
                                                   std::int64_t height) {
  auto condition = std::make_shared<ConditionImage>();
  condition->role = role;
  condition->image = "shades";
  if (role == ConditionImage::Role::kFill) condition->mask = "middle";
  condition->width = width;
  condition->height = height;
  condition->load = [width, height] { return shades(width, height); };
  return condition;
}

// What it begins from, with a mask.
inline std::shared_ptr<const InitImage> begun_from(const Request& request, double strength) {
  auto init = std::make_shared<InitImage>();
  init->image = "shades";
  init->mask = "middle";
  init->strength = strength;
  init->load = [width = request.width, height = request.height] { return shades(width, height); };
  return init;
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
  Encoded encoded;
  encode(context, chunk, encoded);
  join_redux(chunk, encoded);
  results.embeddings = std::move(encoded.embeddings);
  tell("encode", results);
  if (encode_image_steps(chunk) > 0) {
    encode_images(context, chunk, results.denoising);
    tell("encode_image", results);
  }
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
