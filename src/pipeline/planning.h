// What the planner has to know of this machine and this model, gathered for one device: the budget
// from what is free now and what was asked for, the dtypes of the weights from their files.
#pragma once

#include <c10/core/Device.h>

#include <optional>
#include <string>

#include "memory/budget.h"
#include "memory/monitor.h"
#include "memory/plan.h"
#include "steadyflux/pipeline.h"

namespace steadyflux {

// The memory there is for this process, with `device` open; limits from `options`.
// `before_first_run`: what the process held then, if it has been through all phases since.
Budget live_budget(const PipelineOptions& options, c10::Device device,
                   const std::optional<MemorySample>& before_first_run);

// Holds CUDA's allocator to what --max-vram leaves beside the context, and cuBLAS to the workspace
// that is planned. To be called before libtorch's CUDA library is opened, which reads both from the
// environment; without a limit if the card's size cannot be found out. Throws Error (kDoesNotFit)
// if
// --max-vram leaves nothing.
void prepare_cuda(const PipelineOptions& options);

PlanOptions plan_options(const PipelineOptions& options);

}  // namespace steadyflux
