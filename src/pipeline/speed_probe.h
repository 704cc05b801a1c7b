// How fast a device multiplies matrices, measured in a moment.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include "nn/compute.h"

namespace steadyflux {

// Floating-point operations a second, in products as the transformer makes them. Takes about a
// tenth of a second, and 30 MiB.
double measure_flops(c10::Device device, at::ScalarType dtype, Compute compute = Compute::kDtype);

}  // namespace steadyflux
