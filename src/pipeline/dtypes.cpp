#include "pipeline/dtypes.h"

namespace steadyflux {

std::optional<at::ScalarType> dtype_of_name(const std::string& name) {
  if (name == "bf16") return at::kBFloat16;
  if (name == "fp16") return at::kHalf;
  if (name == "fp32") return at::kFloat;
  return std::nullopt;
}

std::string dtype_name(at::ScalarType dtype) {
  if (dtype == at::kBFloat16) return "bf16";
  return dtype == at::kHalf ? "fp16" : "fp32";
}

std::string dtype_text(const std::string& dtype, const std::string& compute) {
  return compute == "auto" ? dtype : dtype + " with products in " + compute;
}

}  // namespace steadyflux
