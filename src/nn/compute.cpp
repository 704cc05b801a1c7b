#include "nn/compute.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>

#include "config/int8_linear.h"
#include "nn/int8_linear_cpu.h"
#include "nn/output_parts.h"
#include "nn/products.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

constexpr std::array<std::pair<const char*, Compute>, 4> kNames{{{"auto", Compute::kDtype},
                                                                 {"bf16", Compute::kBf16},
                                                                 {"int8", Compute::kInt8},
                                                                 {"fp8", Compute::kFp8}}};

constexpr double kLargestFp8 = 448.0;
constexpr double kLeastScale = 1e-30;  // rows of zeros

at::Tensor in_bf16(const at::Tensor& x) { return x.defined() ? x.to(at::kBFloat16) : x; }

// [rows, n] -> [rows, 1], fp32, so that each row's largest value becomes `most`.
at::Tensor row_scale(const at::Tensor& x, double most) {
  return x.abs().amax(1, /*keepdim=*/true).to(at::kFloat).div_(most).clamp_min_(kLeastScale);
}

// x in steps of its rows' scale [rows, 1], in fp32.
at::Tensor in_steps(const at::Tensor& x, const at::Tensor& scale) {
  return x.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true).mul_(scale.reciprocal());
}

// What libtorch's 8-bit products on CUDA take, both ways.
bool fits_device(const at::Tensor& weight) {
  return weight.size(0) % 16 == 0 && weight.size(1) % 16 == 0;
}

}  // namespace

std::optional<Compute> compute_of_name(const std::string& name) {
  for (const auto& [known, compute] : kNames) {
    if (name == known) return compute;
  }
  return std::nullopt;
}

std::string compute_name(Compute compute) {
  return kNames.at(static_cast<std::size_t>(compute)).first;
}

void check_compute(Compute compute, c10::Device device) {
  if (compute != Compute::kFp8) return;
  if (device.is_cpu()) {
    throw Error(ErrorKind::kUsage,
                "--compute fp8: processors multiply no 8-bit floating-point numbers; take int8, or "
                "a CUDA card");
  }
  try {
    const auto x = at::ones({32, 32}, at::TensorOptions().dtype(at::kBFloat16).device(device));
    on_device::fp8_linear(x, x, {});
  } catch (const c10::OutOfMemoryError&) {
    throw;
  } catch (const c10::Error& error) {
    throw Error(ErrorKind::kUsage,
                std::string("--compute fp8: this card multiplies no 8-bit floating-point numbers; "
                            "take int8 (") +
                    error.what_without_backtrace() + ")");
  }
}

at::Tensor linear_as(Compute compute, const at::Tensor& x, const at::Tensor& weight,
                     const at::Tensor& bias) {
  switch (compute) {
    case Compute::kBf16:
      return products::linear(in_bf16(x), in_bf16(weight), in_bf16(bias)).to(x.scalar_type());
    case Compute::kInt8:
      if (!fits_int8_linear(weight.size(1))) break;
      if (x.device().is_cpu()) return int8_linear_cpu(x, weight, bias);
      if (fits_device(weight)) return on_device::int8_linear(x, weight, bias);
      break;
    case Compute::kFp8:
      if (fits_device(weight)) return on_device::fp8_linear(x, weight, bias);
      break;
    case Compute::kDtype:
      break;
  }
  return products::linear(x, weight, bias);
}

namespace on_device {

// Integers as int8_linear_cpu has them, so that sums are the same: its rows of x have values from
// 0 to 255, which become -128 to 127 here.
at::Tensor int8_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  constexpr std::int64_t kLeastRows = 17;  // of libtorch's product
  constexpr double kSteps = 255.0, kMiddle = 128.0, kLargestWeight = 127.0;
  const auto rows = x.reshape({-1, weight.size(1)});
  const auto count = rows.size(0);
  const auto least = rows.amin(1, true).to(at::kFloat).clamp_max_(0);
  const auto step = rows.amax(1, true).to(at::kFloat).clamp_min_(0).sub_(least).div_(kSteps);
  step.clamp_min_(kLeastScale);
  const auto zero = in_steps(least, step).neg_().round_();  // [rows, 1], 0 to 255
  auto values =
      at::zeros({std::max(count, kLeastRows), rows.size(1)}, x.options().dtype(at::kChar));
  values.narrow(0, 0, count)
      .copy_(in_steps(rows, step).round_().add_(zero).clamp_(0, kSteps).sub_(kMiddle));
  const auto offset = zero.sub(kMiddle).neg_().to(at::kInt);  // [rows, 1]
  return by_outputs(x, weight, bias, [&](const at::Tensor& part, const at::Tensor& part_bias) {
    const auto scale = row_scale(part, kLargestWeight);                 // [outputs, 1]
    const auto rounded = in_steps(part, scale).round_().to(at::kChar);  // [outputs, in]
    const auto sums = rounded.sum(1, /*keepdim=*/true, at::kInt).t();   // [1, outputs]
    auto product = at::_int_mm(values, rounded.t()).narrow(0, 0, count);
    auto exact = product.addcmul_(offset, sums).to(at::kFloat).mul_(step).mul_(scale.t());
    return part_bias.defined() ? exact.add_(part_bias) : exact;
  });
}

at::Tensor fp8_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const auto rows = x.reshape({-1, weight.size(1)});
  const auto x_scale = row_scale(rows, kLargestFp8);
  const auto values = in_steps(rows, x_scale).to(at::kFloat8_e4m3fn);
  return by_outputs(x, weight, bias, [&](const at::Tensor& part, const at::Tensor& part_bias) {
    const auto scale = row_scale(part, kLargestFp8);
    const auto weights = in_steps(part, scale).to(at::kFloat8_e4m3fn);
    // With a scale for each row the result is in bf16.
    return at::_scaled_mm(values, weights.t(), x_scale, scale.t(), if_defined(in_bf16(part_bias)),
                          {}, at::kBFloat16);
  });
}

}  // namespace on_device

}  // namespace steadyflux
