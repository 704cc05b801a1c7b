// What the linear layers of transformer blocks multiply in. By itself that is the model's dtype.
// Fewer bits are faster where the hardware multiplies them so, and not the same picture: rows of x
// and of the weight are rounded, each by a scale of its own, sums are exact or in fp32, and the
// result is in the model's dtype again.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <optional>
#include <string>

namespace steadyflux {

enum class Compute : std::uint8_t {
  kDtype,  // that of the model
  kBf16,
  kInt8,  // 8-bit integers
  kFp8,   // 8-bit floating-point numbers, E4M3: on CUDA
};

std::optional<Compute> compute_of_name(const std::string& name);  // "auto", "bf16", "int8", "fp8"
std::string compute_name(Compute compute);

// Throws Error{kUsage} if the device cannot multiply so: a card is asked for one small product.
void check_compute(Compute compute, c10::Device device);

// x W^T + b: x [..., in], weight [out, in], bias [out] or undefined, in one dtype, which the result
// has too. Weights whose rows have no length that 8-bit products take are multiplied in the dtype.
at::Tensor linear_as(Compute compute, const at::Tensor& x, const at::Tensor& weight,
                     const at::Tensor& bias = {});

// As on a device, by libtorch's operators; tests run them on the CPU.
namespace on_device {
at::Tensor int8_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);
at::Tensor fp8_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);
}  // namespace on_device

}  // namespace steadyflux
