// How a model's weights are stored, for the memory planner. Configuration files are enough; headers
// of weight files and indices are looked at where they are there. No libtorch.
#pragma once

#include "config/model_config.h"
#include "memory/plan.h"

namespace steadyflux {

// From the headers of those weight files that are there, tensor by tensor if they are complete;
// where there is none, from the size that the index tells and the number of weights that the
// configuration asks for; else bf16, in which FLUX.1 comes. Throws Error{kBadInput} for a damaged
// header or index.
StoredModel find_stored_model(const FluxModel& model);

}  // namespace steadyflux
