#include "memory/plan_advice.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/bytes.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kMiB = std::int64_t{1} << 20;
constexpr std::int64_t kGiB = std::int64_t{1} << 30;
constexpr std::int64_t kPlenty = std::int64_t{1} << 45;  // 32 TiB

// The smallest value in (low, high] that fits; high does, and whatever is above one that does.
template <typename Fits>
std::int64_t smallest(std::int64_t low, std::int64_t high, std::int64_t precision, Fits fits) {
  while (high - low > precision) {
    const auto middle = low + (high - low) / 2;
    (fits(middle) ? high : low) = middle;
  }
  return high;
}

Alternatives find_alternatives(const FluxModel& model, const Workload& workload,
                               const Budget& budget, const PlanOptions& options) {
  const auto with = [&](std::int64_t Budget::*member, std::int64_t bytes) {
    auto changed = budget;
    changed.*member = bytes;
    return make_plan(model, workload, changed, options).fits;
  };
  Alternatives result;
  const auto least = [&](std::int64_t Budget::*member) -> std::int64_t {
    if (!with(member, kPlenty)) return 0;
    const auto bytes =
        smallest(0, kPlenty, kMiB / 4, [&](std::int64_t value) { return with(member, value); });
    return (bytes + kMiB - 1) / kMiB * kMiB;
  };
  if (budget.has_device) result.vram = least(&Budget::vram);
  result.ram = least(&Budget::ram);
  // Sizes of the same aspect, in steps of the smallest the model has.
  const auto multiple = 2 * model.vae.scale_factor();
  const auto sized = [&](std::int64_t longer) {
    const auto side = std::max(workload.width, workload.height);
    const auto scaled = [&](std::int64_t length) {
      return std::max(length * longer / side / multiple * multiple, multiple);
    };
    auto smaller = workload;
    smaller.width = scaled(workload.width);
    smaller.height = scaled(workload.height);
    return smaller;
  };
  for (auto longer = std::max(workload.width, workload.height); longer >= multiple;
       longer -= multiple) {
    const auto candidate = sized(longer);
    if (!make_plan(model, candidate, budget, options).fits) continue;
    result.width = candidate.width;
    result.height = candidate.height;
    break;
  }
  return result;
}

std::string at_least(std::int64_t bytes) {
  const bool large = bytes >= kGiB;
  const std::int64_t unit = large ? kGiB : kMiB;
  const auto hundredths = static_cast<std::int64_t>(
      std::ceil(static_cast<double>(bytes) * 100 / static_cast<double>(unit)));
  return fmt::format("{}.{:02} {}", hundredths / 100, hundredths % 100, large ? "GiB" : "MiB");
}

struct Excess {
  std::string phase;
  std::int64_t needed = 0;
};

// The phase that goes furthest beyond the budget, if any does.
std::optional<Excess> find_excess(const Plan& plan, std::int64_t PhasePlan::*peak,
                                  std::int64_t budget) {
  std::optional<Excess> worst;
  for (const PhasePlan& phase : plan.phases) {
    if (phase.*peak > std::max(budget, worst ? worst->needed : 0)) {
      worst = {phase.name, phase.*peak};
    }
  }
  return worst;
}

}  // namespace

Remedies find_remedies(const FluxModel& model, const Workload& workload, const Budget& budget,
                       const PlanOptions& options) {
  const auto find = [&](const Budget& changed) {
    return find_alternatives(model, workload, changed, options);
  };
  Remedies remedies;
  remedies.alone = find(budget);
  if (budget.has_device && remedies.alone.vram == 0 && remedies.alone.ram == 0) {
    Budget other = budget;
    other.ram = kPlenty;
    remedies.vram = find(other).vram;
    other = budget;
    other.vram = remedies.vram;
    remedies.ram = find(other).ram;
  }
  return remedies;
}

std::string does_not_fit_text(const Plan& plan, const Remedies& remedies) {
  std::string text = fmt::format("{} x {} does not fit", plan.workload.width, plan.workload.height);
  std::string separator = ": ";
  const auto say_excess = [&](const std::optional<Excess>& excess, const char* kind,
                              std::int64_t budget, const std::string& set_by) {
    if (!excess) return;
    text += fmt::format("{}{} needs {} of {}, {} may be used{}", separator, excess->phase,
                        at_least(excess->needed), kind, format_bytes(budget),
                        set_by.empty() ? "" : fmt::format(" ({})", set_by));
    separator = ", ";
  };
  if (plan.budget.has_device) {
    say_excess(find_excess(plan, &PhasePlan::device_peak_bytes, plan.budget.vram), "VRAM",
               plan.budget.vram, "");
  }
  say_excess(find_excess(plan, &PhasePlan::ram_peak_bytes, plan.budget.ram), "RAM", plan.budget.ram,
             plan.budget.ram_set_by);
  const Alternatives& alone = remedies.alone;
  if (alone.vram > 0 && alone.ram > 0) {
    text += fmt::format("; {} of VRAM or {} of RAM would do", at_least(alone.vram),
                        at_least(alone.ram));
  } else if (alone.vram > 0 || alone.ram > 0) {
    text += fmt::format("; {} of {} would do", at_least(std::max(alone.vram, alone.ram)),
                        alone.vram > 0 ? "VRAM" : "RAM");
  } else if (remedies.vram > 0 && remedies.ram > 0) {
    text += fmt::format("; {} of VRAM with {} of RAM would do", at_least(remedies.vram),
                        at_least(remedies.ram));
  } else {
    text += "; no amount of memory would do";
  }
  if (alone.width == 0) return text + "; no size fits";
  return text + fmt::format("; the largest size that fits is {} x {}", alone.width, alone.height);
}

}  // namespace steadyflux
