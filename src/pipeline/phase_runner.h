// Runs phases by a plan and sees to it that memory stays what the plan says: watches it, goes on by
// a leaner plan when it runs out or grows scarce, gives back what a phase freed, and tells the
// observer what was taken and what was foretold.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "config/model_config.h"
#include "memory/monitor.h"
#include "memory/plan.h"
#include "memory/pressure.h"
#include "pipeline/phases.h"

namespace steadyflux {

enum class OnPressure { kReplan, kWarn, kAbort };

// Where a request is carried out, and by which plan to begin with.
struct RunSetting {
  const FluxModel& model;
  c10::Device device;
  at::ScalarType dtype;
  Workload workload;
  Budget budget;
  PlanOptions plan_options = {};
  OnPressure on_pressure = OnPressure::kReplan;
  LatentsStore* latents = nullptr;
  std::shared_ptr<const LoraSet> loras = nullptr;
};

class PhaseRunner {
 public:
  PhaseRunner(RunSetting setting, Observer& observer);

  const Plan& plan() const { return plan_; }
  const PlanOptions& plan_options() const { return setting_.plan_options; }

  // Calls `body`, and calls it again by a leaner plan as long as memory runs out and there is one:
  // so it has to go on where it was, or begin anew. What it leaves behind is kept.
  using Body = std::function<void(const PhaseContext&)>;
  void run(const std::string& name, std::int64_t steps, const Body& body);

  // All that was seen so far.
  MemoryTimeline timeline() const;

 private:
  bool try_body(const std::string& name, double& load_seconds, const Body& body);
  void plan_leaner();
  const Plan* replan_under_pressure(std::int64_t planned_reads);

  RunSetting setting_;
  Observer& observer_;
  Plan plan_;
  MemoryMonitor monitor_;
  PressureDetector pressure_;
};

}  // namespace steadyflux
