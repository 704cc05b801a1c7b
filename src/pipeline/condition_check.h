// Do a model and the pictures of a request go together? Torch-free: `plan` asks as well.
#pragma once

#include "config/model_config.h"
#include "steadyflux/pipeline.h"

namespace steadyflux {

// Throws Error{kUsage} that says what the model takes: a model without its picture, a picture that
// the model was not made for, both a picture to begin from and one to be shown, or a size that does
// not fit.
void check_condition(const FluxModel& model, const Request& request);

}  // namespace steadyflux
