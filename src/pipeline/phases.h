// The three phases of a picture, each opening its own components and closing them before the next:
// prompt -> embeddings -> latents -> pixels. Nothing is shared between phases but small tensors.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <functional>
#include <string>
#include <vector>

#include "config/model_config.h"
#include "memory/plan.h"
#include "steadyflux/pipeline.h"

namespace steadyflux {

// Where and how the phases run.
struct PhaseContext {
  const ModelFolder& model;
  c10::Device device;
  at::ScalarType dtype;
  Observer& observer;
  double& load_seconds;  // grows by the time spent opening weights
  const Plan& plan;      // where weights and activations are
  // Asked between denoising steps, with the bytes that were read on purpose in this phase: another
  // plan if this one should not be kept to. May be empty.
  std::function<const Plan*(std::int64_t bytes_read)> replan = {};
};

struct PromptEmbeddings {
  at::Tensor prompt_embeds;         // [1, max_sequence_length, joint_attention_dim]
  at::Tensor pooled_prompt_embeds;  // [1, pooled_projection_dim]
};

// Reads the headers of all weight files: throws Error{kBadInput} if a tensor is missing, misshapen
// or cut off. So a damaged VAE is found before minutes of denoising.
void check_weights(const ModelFolder& model);

// Progress steps: one for CLIP, one for each T5 block.
std::int64_t encode_steps(const ModelFolder& model);
PromptEmbeddings encode_prompt(const PhaseContext& context, const std::string& prompt,
                               std::int64_t max_sequence_length);

// Modulations of the steps from `first` on, in RAM.
struct ModulationTable {
  at::Tensor rows;  // [steps, FluxTransformer::modulation_width()]
  std::int64_t first = 0;
};

// At most plan.modulation_rows steps. Progress steps: modulate_steps.
std::int64_t modulate_steps(const ModelFolder& model);
ModulationTable modulate(const PhaseContext& context, const Request& request,
                         const PromptEmbeddings& embeddings, std::int64_t first_step);

// How far the pictures of a request are.
struct Denoising {
  std::vector<at::Tensor> latents;       // packed, [1, S, in_channels], in RAM; one per picture
  std::vector<std::int64_t> steps_done;  // one per picture
};

// Takes every picture in turn through the steps that the table has. Goes on where `state` stands,
// so that it can be called again after it threw. Progress steps: num_images * num_inference_steps.
void denoise(const PhaseContext& context, const Request& request,
             const PromptEmbeddings& embeddings, const ModulationTable& table, Denoising& state);

// Decodes latents[done] and those behind it, raising `done` after each: it can be called again
// after it threw. Progress steps: decode_steps for every picture.
std::int64_t decode_steps(const ModelFolder& model);
void decode(const PhaseContext& context, const Request& request,
            const std::vector<at::Tensor>& latents, std::size_t& done,
            const std::function<void(std::int64_t index, Image image)>& on_image);

}  // namespace steadyflux
