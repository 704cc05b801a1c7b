// The phases of a request one after the other: the table of contents of making pictures.
#pragma once

#include <cstdint>
#include <functional>

#include "pipeline/phase_runner.h"

namespace steadyflux {

// Pictures come in their order, each as soon as it is decoded. If memory runs out for good while
// some are finished, those are given before the exception goes on its way.
void generate_pictures(const ModelFolder& model, const Request& request, PhaseRunner& runner,
                       const std::function<void(std::int64_t index, Image image)>& on_image);

}  // namespace steadyflux
