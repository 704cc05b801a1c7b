// From a model folder and a request to the workload that the memory planner works on. Configuration
// files are enough; headers of weight files and indices are looked at where they are there. No
// libtorch, so that `plan` and a pipeline can share it.
#pragma once

#include <string>

#include "config/model_config.h"
#include "memory/plan.h"
#include "pipeline/chunk.h"

namespace steadyflux {

// From the headers of those weight files that are there; where there is none, from the size that
// the index tells and the number of weights that the configuration asks for; else bf16, in which
// FLUX.1 comes. Throws Error{kBadInput} for a damaged header or index.
StoredDtypes find_stored_dtypes(const ModelFolder& model);

// `dtype` is "auto" (that of the transformer's weights), bf16, fp16 or fp32.
Workload make_workload(const Chunk& chunk, const StoredDtypes& stored, const std::string& dtype,
                       int num_threads);

}  // namespace steadyflux
