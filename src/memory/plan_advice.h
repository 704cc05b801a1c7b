// When a plan does not fit: what would do, and the one line that says so.
#pragma once

#include <cstdint>
#include <string>

#include "memory/plan.h"

namespace steadyflux {

// What to do if a plan does not fit. Sizes as they have to be asked for.
struct Remedies {
  Alternatives alone;  // each budget while the other stays, and the largest picture
  // Both budgets at once, where neither alone would do; 0 if not even that.
  std::int64_t vram = 0;
  std::int64_t ram = 0;
};

Remedies find_remedies(const FluxModel& model, const Workload& workload, const Budget& budget,
                       const PlanOptions& options);

// One line: what is missing, the smallest budgets that would do, the largest size that fits.
std::string does_not_fit_text(const Plan& plan, const Remedies& remedies);

}  // namespace steadyflux
