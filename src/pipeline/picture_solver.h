// How the latents of one picture get from a noise level to the next by what the transformer says
// of them: steps as diffusers' FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler and
// DPMSolverMultistepScheduler make them, on the levels that a request has.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace steadyflux {

class PictureSolver {
 public:
  PictureSolver() = default;
  // `sigmas` before the first step that is made, after it, ..., 0.
  PictureSolver(std::string scheduler, std::vector<float> sigmas);

  struct Step {
    at::Tensor latents;     // at the next level, in RAM
    at::Tensor prediction;  // of the finished picture, in RAM; undefined if no step needs it
  };
  // `velocity` is what the transformer says of `latents`, or of trial() if there is one; both are
  // where it is computed. `before`: the last step's prediction. Nothing if the step is not
  // complete yet: the transformer is to be asked once more, of trial() at the next level.
  std::optional<Step> advance(std::size_t step, const at::Tensor& latents,
                              const at::Tensor& velocity, const at::Tensor& before);

  // In RAM; undefined between two steps.
  at::Tensor& trial() { return trial_; }
  const at::Tensor& trial() const { return trial_; }
  float sigma(std::size_t step) const { return sigmas_[step]; }

 private:
  std::optional<Step> heun(std::size_t step, const at::Tensor& latents, const at::Tensor& velocity);
  Step dpmpp_2m(std::size_t step, const at::Tensor& latents, const at::Tensor& velocity,
                const at::Tensor& before) const;

  std::string scheduler_;
  std::vector<float> sigmas_;
  at::Tensor trial_;
  at::Tensor velocity_;  // at the beginning of the step, in RAM
};

}  // namespace steadyflux
