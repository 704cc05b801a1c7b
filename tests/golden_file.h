// The goldens of scripts/make_goldens.py for tests: tensors by name, and a comparison that says how
// far off it was. Names are RUN.STAGE; RUN is fp32 or bf16, the dtype diffusers ran in.
//
// Tolerances. fp32: the same operators of the same libtorch, but sums may be cut differently
// (fused kernels, thread counts), so a few hundred ulps of the value range after a deep stack:
// 2e-5 of the largest value. bf16 has 8 bits of mantissa, ulp 2^-8 relative; every layer rounds
// anew, and one value rounded the other way spreads through the layers behind it. One stage gets
// 4 ulps of the largest value (1.6 %), the whole picture more (see pipeline_golden_test.cpp).
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <iostream>
#include <string>

#include "base/cpu.h"
#include "nn/load.h"
#include "weights/safetensors.h"

namespace steadyflux::testing {

inline constexpr double kFp32Tolerance = 2e-5;
// The goldens in bf16 are up to 5.7 / 256 away from the same weights in fp32. Where the processor
// does not multiply bf16, attention's probabilities are not rounded to it, and the results lie
// between the two.
inline const double kBf16Tolerance = (cpu_multiplies_bf16() ? 4.0 : 6.0) / 256;

struct Run {
  std::string name;  // fp32, bf16
  at::ScalarType dtype;
  double tolerance;
};

inline const Run kRuns[] = {{"fp32", at::kFloat, kFp32Tolerance},
                            {"bf16", at::kBFloat16, kBf16Tolerance}};

class Goldens {
 public:
  explicit Goldens(const std::string& name)
      : folder_(std::filesystem::path(STEADYFLUX_SOURCE_DIR) / "tests" / "goldens" / name),
        file_(SafetensorsFile::open(folder_ / "goldens.safetensors")) {}

  std::filesystem::path model() const { return folder_ / "model"; }
  bool has(const std::string& name) const { return file_.tensors.count(name) != 0; }
  at::Tensor tensor(const std::string& name) const {
    const auto& view = file_.tensors.at(name);
    if (view.dtype == DType::kI64) return copy(view, at::kLong);
    if (view.dtype == DType::kU8) return copy(view, at::kByte);
    return to_tensor(view).clone();
  }

 private:
  static at::Tensor copy(const TensorView& view, at::ScalarType type) {
    auto tensor = at::empty(view.shape, type);
    std::memcpy(tensor.data_ptr(), view.data, view.nbytes);
    return tensor;
  }

  std::filesystem::path folder_;
  SafetensorsFile file_;
};

// Largest difference as a fraction of the largest expected value; printed, so that a log shows how
// much of the tolerance is used.
inline void expect_close(const std::string& what, const at::Tensor& found,
                         const at::Tensor& expected, double tolerance) {
  ASSERT_EQ(found.sizes(), expected.sizes()) << what;
  EXPECT_EQ(found.scalar_type(), expected.scalar_type()) << what;
  const auto a = found.to(at::kDouble), b = expected.to(at::kDouble);
  const auto range = b.abs().max().item<double>();
  const auto difference = (a - b).abs().max().item<double>();
  std::cout << what << ": largest difference " << difference << " of " << range << "\n";
  EXPECT_LE(difference, tolerance * range) << what;  // false for NaN too
}

}  // namespace steadyflux::testing
