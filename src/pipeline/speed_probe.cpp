#include "pipeline/speed_probe.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>

#include "pipeline/device.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kRows = 512, kWidth = 1536;
constexpr double kLongEnough = 0.03;  // seconds, beside which starting and waiting do not count

double seconds_of(Compute compute, const at::Tensor& x, const at::Tensor& weight,
                  std::int64_t times) {
  const auto begin = std::chrono::steady_clock::now();
  for (std::int64_t i = 0; i < times; ++i) linear_as(compute, x, weight);
  synchronize_device(x.device());
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Operations a second.
double measure_flops(c10::Device device, at::ScalarType dtype, Compute compute) {
  const c10::InferenceMode inference_mode;
  const auto options = at::TensorOptions().dtype(dtype).device(device);
  const auto x = at::ones({kRows, kWidth}, options), weight = at::ones({kWidth, kWidth}, options);
  seconds_of(compute, x, weight, 1);  // the libraries begin
  std::int64_t times = 1;
  double seconds = seconds_of(compute, x, weight, times);
  while (seconds < kLongEnough && times < 1 << 16) {
    times *= 2;
    seconds = seconds_of(compute, x, weight, times);
  }
  seconds = std::min(seconds, seconds_of(compute, x, weight, times));
  return 2.0 * static_cast<double>(kRows * kWidth * kWidth * times) / seconds;
}

}  // namespace

MachineSpeed measure_speed(c10::Device device, at::ScalarType dtype, Compute compute) {
  MachineSpeed speed{.flops = measure_flops(device, dtype, Compute::kDtype)};
  if (compute != Compute::kDtype) {
    speed.layers_factor = speed.flops / measure_flops(device, dtype, compute);
  }
  return speed;
}

}  // namespace steadyflux
