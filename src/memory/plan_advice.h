// When a plan does not fit: what would do, and the one line that says so.
#pragma once

#include <cstdint>
#include <string>

#include "memory/plan.h"

namespace steadyflux {

// The smallest budget of the device and of RAM, each with the other as it is (0: no amount of it
// would do); the largest width and height of the same aspect that fit.
struct Alternatives {
  std::int64_t vram = 0;
  std::int64_t ram = 0;
  std::int64_t width = 0;
  std::int64_t height = 0;
};

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
