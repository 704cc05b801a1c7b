// From a request to the workload that the memory planner works on. No libtorch, so that `plan` and
// a pipeline can share it.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "config/model_config.h"
#include "memory/plan.h"
#include "pipeline/chunk.h"

namespace steadyflux {

// What a transformer so stored is computed with unless asked otherwise: what it is stored as; bf16
// if it is packed.
std::string computed_dtype(const StoredWeights& transformer);

// `dtype` is "auto" (that of the transformer's weights), bf16, fp16 or fp32, `compute` as in
// Workload. Looks into the files of LoRAs; throws Error{kBadInput} if one is none.
Workload make_workload(const Chunk& chunk, const StoredModel& stored, const std::string& dtype,
                       int num_threads, const std::string& compute = "auto");

// How many of `requests`, from the first on, are best made in one go within this budget: weights
// are brought in once for all of them, and what waits between the phases has to fit. At least 1.
std::size_t best_chunk_size(const FluxModel& model, std::span<const Request> requests,
                            const StoredModel& stored, const std::string& dtype, int num_threads,
                            const Budget& budget, const PlanOptions& options,
                            const std::string& compute = "auto");

}  // namespace steadyflux
