// From a model folder and a request to the workload that the memory planner works on. Configuration
// files are enough; headers of weight files and indices are looked at where they are there. No
// libtorch, so that `plan` and a pipeline can share it.
#pragma once

#include <cstddef>
#include <span>
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

// How many of `requests`, from the first on, are best made in one go within this budget: weights
// are brought in once for all of them, and what waits between the phases has to fit. At least 1.
std::size_t best_chunk_size(const ModelFolder& model, std::span<const Request> requests,
                            const StoredDtypes& stored, const std::string& dtype, int num_threads,
                            const Budget& budget, const PlanOptions& options);

}  // namespace steadyflux
