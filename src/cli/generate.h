// What generate and upscale have in common.
#pragma once

#include "cli/request.h"

namespace steadyflux::cli {

// Makes the pictures of a job and writes them.
void make_pictures(const GenerateJob& job, Pipeline& pipeline, Console& console);

}  // namespace steadyflux::cli
