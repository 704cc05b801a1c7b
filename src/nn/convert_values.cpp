#include "nn/convert_values.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>

#include <algorithm>
#include <cstring>

namespace steadyflux {

void convert_values(const at::Tensor& from, const at::Tensor& to) {
  const auto count = from.numel();
  if (from.scalar_type() == to.scalar_type()) {
    std::memcpy(to.mutable_data_ptr(), from.const_data_ptr(), from.nbytes());
    return;
  }
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, from.scalar_type(), "convert_values", [&] {
        using From = scalar_t;
        const auto* source = from.const_data_ptr<From>();
        AT_DISPATCH_FLOATING_TYPES_AND2(
            at::kHalf, at::kBFloat16, to.scalar_type(), "convert_values", [&] {
              std::transform(source, source + count, to.mutable_data_ptr<scalar_t>(),
                             [](From value) { return static_cast<scalar_t>(value); });
            });
      });
}

}  // namespace steadyflux
