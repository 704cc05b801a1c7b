// Latents are added up in fp32; what is multiplied by a number is rounded to the model's dtype
// first, as a tensor of diffusers times a 0-dim tensor is.
#include "pipeline/picture_solver.h"

#include <ATen/ATen.h>

#include <utility>

#include "scheduler/dpm_solver.h"

namespace steadyflux {
namespace {

at::Tensor stepped(const at::Tensor& latents, const at::Tensor& change, at::ScalarType dtype) {
  return (latents.to(at::kFloat) + change).to(dtype).to(at::kCPU);
}

}  // namespace

PictureSolver::PictureSolver(std::string scheduler, std::vector<float> sigmas)
    : scheduler_(std::move(scheduler)), sigmas_(std::move(sigmas)) {}

std::optional<PictureSolver::Step> PictureSolver::advance(std::size_t step,
                                                          const at::Tensor& latents,
                                                          const at::Tensor& velocity,
                                                          const at::Tensor& before) {
  if (scheduler_ == "heun") return heun(step, latents, velocity);
  if (scheduler_ == "dpmpp_2m") return dpmpp_2m(step, latents, velocity, before);
  const float dt = sigmas_[step + 1] - sigmas_[step];
  return Step{stepped(latents, velocity * dt, velocity.scalar_type()), {}};
}

// The mean of the velocities at both ends of the step; at 0 there is none.
std::optional<PictureSolver::Step> PictureSolver::heun(std::size_t step, const at::Tensor& latents,
                                                       const at::Tensor& velocity) {
  const float dt = sigmas_[step + 1] - sigmas_[step];
  const auto dtype = velocity.scalar_type();
  if (trial_.defined()) {
    const auto first = std::exchange(velocity_, {}).to(velocity.device());
    trial_.reset();
    const auto mean = (first.to(at::kFloat) + velocity.to(at::kFloat)) * 0.5;
    return Step{stepped(latents, mean * dt, dtype), {}};
  }
  auto arrived = stepped(latents, velocity.to(at::kFloat) * dt, dtype);
  if (sigmas_[step + 1] == 0) return Step{std::move(arrived), {}};
  velocity_ = velocity.to(at::kCPU);
  trial_ = std::move(arrived);
  return std::nullopt;
}

PictureSolver::Step PictureSolver::dpmpp_2m(std::size_t step, const at::Tensor& latents,
                                            const at::Tensor& velocity,
                                            const at::Tensor& before) const {
  const auto numbers = dpm_coefficients(sigmas_, step, before.defined());
  const auto prediction = latents - velocity * sigmas_[step];
  auto change = prediction * -numbers.prediction;
  if (numbers.difference != 0) {
    const auto difference = (prediction - before.to(velocity.device())) * numbers.difference;
    change = change.to(at::kFloat) + difference * (-0.5f * numbers.prediction);
  }
  return {stepped(latents.to(at::kFloat) * numbers.sample, change, velocity.scalar_type()),
          prediction.to(at::kCPU)};
}

}  // namespace steadyflux
