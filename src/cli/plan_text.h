// A memory plan as people read it (a table and bars over the phases) and as programs do (JSON), and
// the line that says why there is none. Plain values in, text out: nothing is probed or opened.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "cli/json_output.h"
#include "cli/text_output.h"
#include "memory/plan.h"
#include "memory/plan_advice.h"

namespace steadyflux::cli {

// What stands above a plan, and is not part of it.
struct PlanTitle {
  std::string model;             // its name
  std::string device;            // what was asked for: "cpu", "cuda:1"
  std::string vram_reason = {};  // where the budgets come from; "" if nobody knows
  std::string ram_reason = {};
  std::optional<double> seconds = {};  // for each picture, about; where it was asked for
  std::int64_t chunks = 1;             // like the one that is planned, the last perhaps smaller
};

// Several lines, each ending in a newline.
std::string plan_text(const Plan& plan, const PlanTitle& title, const TextStyle& style);

// `remedies` are there if the plan does not fit.
Json plan_json(const Plan& plan, const PlanTitle& title, const std::optional<Remedies>& remedies);

}  // namespace steadyflux::cli
