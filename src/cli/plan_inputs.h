// What `steadyflux plan` plans with: the workload from files and options, and a budget that need
// not be this machine's. No device is opened.
#pragma once

#include "cli/plan_text.h"
#include "cli/request.h"
#include "memory/plan.h"

namespace steadyflux::cli {

struct PlanInputs {
  Workload workload;
  Budget budget;
  PlanOptions options;
  PlanTitle title;
};

// --max-vram and --max-ram replace what this machine has. Throws Error{kUsage} if a card is asked
// for whose memory nobody has told.
PlanInputs make_plan_inputs(const GenerateJob& job);

// What to type instead, if the plan of these inputs does not fit.
Remedies find_remedies(const FluxModel& model, const PlanInputs& inputs);

}  // namespace steadyflux::cli
