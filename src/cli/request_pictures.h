// The pictures that a request goes by: --image, --mask, --strength, --reference, --control-image.
// What --image is depends on the model.
#pragma once

#include "cli/layers.h"
#include "cli/request.h"

namespace steadyflux::cli {

// Fills in request.init_image, request.condition and a size that is not given. As long as no model
// is open (job.model.root is empty), --image is what begins image to image. Throws Error: kUsage
// for options that do not go together, kBadInput for a file that is no picture.
void apply_pictures(GenerateJob& job, const Layers& layers);

// For `plan`: a model that needs a picture gets one of the result's size, if none is given.
void assume_pictures(GenerateJob& job);

}  // namespace steadyflux::cli
