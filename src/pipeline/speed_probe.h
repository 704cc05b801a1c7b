// How fast a device multiplies matrices, measured in a moment.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include "memory/time_estimate.h"
#include "nn/compute.h"

namespace steadyflux {

// Of products as the transformer makes them. Takes about a tenth of a second, and 30 MiB; with
// products in fewer bits twice as much.
MachineSpeed measure_speed(c10::Device device, at::ScalarType dtype, Compute compute);

}  // namespace steadyflux
