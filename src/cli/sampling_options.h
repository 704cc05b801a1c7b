// --scheduler, --sigmas, --shift, --compat, --cache-threshold, and --steps as far as sigmas say how
// many there are.
#pragma once

#include <string>
#include <vector>

#include "cli/layers.h"
#include "cli/request.h"

namespace steadyflux::cli {

// "1, 0.8, 0.5": numbers separated by commas or blanks. Throws Error{kUsage} if one is none.
std::vector<double> parse_sigmas(const std::string& text);

// Fills job.request: what is not given stays as it is. To be called when the number of steps is in
// it. Throws Error{kUsage}.
void apply_sampling(GenerateJob& job, const Layers& layers);

}  // namespace steadyflux::cli
