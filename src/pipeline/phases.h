// The three phases of a picture, each opening its own components and closing them before the next:
// prompt -> embeddings -> latents -> pixels. Nothing is shared between phases but small tensors.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <functional>
#include <string>
#include <vector>

#include "config/model_config.h"
#include "steadyflux/pipeline.h"

namespace steadyflux {

// Where and how the phases run.
struct PhaseContext {
  const ModelFolder& model;
  c10::Device device;
  at::ScalarType dtype;
  Observer& observer;
  double& load_seconds;  // grows by the time spent opening weights
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

// Gives, for every picture of the request, packed latents [1, S, in_channels] on the device.
// Progress steps: num_images * num_inference_steps.
std::vector<at::Tensor> denoise(const PhaseContext& context, const Request& request,
                                const PromptEmbeddings& embeddings);

// Progress steps: decode_steps for every picture.
std::int64_t decode_steps(const ModelFolder& model);
void decode(const PhaseContext& context, const Request& request,
            const std::vector<at::Tensor>& latents,
            const std::function<void(std::int64_t index, Image image)>& on_image);

}  // namespace steadyflux
