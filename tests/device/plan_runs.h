// Requests carried out by plans of many budgets: what they give, and what they take of a device.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "device/run_phases.h"

namespace steadyflux::testing {

// The simulated device computes on the CPU: in bf16 for hours if that has no instructions for it.
inline at::ScalarType plan_dtype() { return cpu_multiplies_bf16() ? at::kBFloat16 : at::kFloat; }

inline Workload plan_workload(const FluxModel& model, const std::vector<Request>& requests,
                              const std::string& compute = "auto") {
  auto workload = workload_of(model, requests, plan_dtype());
  workload.stored = {};
  workload.compute = compute;
  return workload;
}

// The smallest budget that a plan keeps to, and one that has room for everything.
struct BudgetRange {
  std::int64_t least, most;
};

inline BudgetRange budget_range(const FluxModel& model, const Workload& work, c10::Device device) {
  const auto peak = [&](const Plan& plan) {
    return device.is_cpu() ? plan.ram_peak_bytes : plan.device_peak_bytes;
  };
  return {peak(make_plan(model, work, tensor_budget(device, 1, 1))),
          peak(make_plan(model, work, tensor_budget(device, kPlenty, kPlenty)))};
}

inline std::vector<std::vector<std::uint8_t>> pictures(const PhaseResults& results) {
  std::vector<std::vector<std::uint8_t>> all;
  for (const auto& image : results.images) all.push_back(image.rgb);
  return all;
}

// Of each request alone, with memory to spare.
inline std::vector<std::vector<std::uint8_t>> pictures_alone(const FluxModel& model,
                                                             c10::Device device,
                                                             const std::vector<Request>& requests,
                                                             const std::string& compute = "auto") {
  std::vector<std::vector<std::uint8_t>> expected;
  for (const auto& request : requests) {
    const auto plan = make_plan(model, plan_workload(model, {request}, compute),
                                tensor_budget(device, kPlenty, kPlenty));
    for (auto& picture : pictures(run_phases(model, device, plan_dtype(), {request}, plan))) {
      expected.push_back(std::move(picture));
    }
  }
  return expected;
}

// The requests in one go, within random budgets from the least on.
inline void expect_at_any_budget(const std::vector<std::vector<std::uint8_t>>& expected,
                                 const FluxModel& model, c10::Device device,
                                 const std::vector<Request>& requests, int tries) {
  const auto work = plan_workload(model, requests);
  const auto range = budget_range(model, work, device);
  std::mt19937 generator(1);
  std::uniform_int_distribution<std::int64_t> budgets(range.least, range.most);
  for (int i = 0; i < tries; ++i) {
    const auto budget = i == 0 ? range.least : budgets(generator);
    const auto plan =
        make_plan(model, work, tensor_budget(device, budget, device.is_cpu() ? budget : kPlenty),
                  {.leaner = i % 3});
    ASSERT_TRUE(plan.fits) << budget;
    if (!device.is_cpu()) {
      release_device_memory(device);
      set_device_limit(budget);
    }
    ASSERT_EQ(pictures(run_phases(model, device, plan_dtype(), requests, plan)), expected)
        << "budget " << budget << ", group " << plan.denoise_group;
  }
}

// How far predictions of device peaks are off, over all phases of several runs.
struct Accuracy {
  double lowest = 0, highest = 0;

  void add(const std::string& what, std::int64_t predicted, std::int64_t measured) {
    const auto off = static_cast<double>(predicted) / static_cast<double>(measured) - 1;
    lowest = std::min(lowest, off);
    highest = std::max(highest, off);
    EXPECT_GE(off, -0.02) << what << ": predicted " << predicted << ", took " << measured;
    EXPECT_LE(off, 0.05) << what << ": predicted " << predicted << ", took " << measured;
  }
};

// Carries out the requests on the simulated device, with `count` budgets from the least that works
// to plenty.
inline void measure_peaks(const FluxModel& model, const std::vector<Request>& requests, int count,
                          Accuracy& accuracy, std::set<std::int64_t>& groups,
                          const std::string& compute = "auto") {
  const auto device = simulated_device();
  const auto work = plan_workload(model, requests, compute);
  const auto range = budget_range(model, work, device);
  for (int i = 0; i < count; ++i) {
    const auto budget = range.least + (range.most - range.least) * i / (count - 1);
    const auto plan = make_plan(model, work, tensor_budget(device, budget, kPlenty));
    ASSERT_TRUE(plan.fits);
    EXPECT_LE(plan.device_peak_bytes, budget);
    groups.insert(plan.denoise_group);
    release_device_memory(device);
    reset_device_peak(device);
    run_phases(
        model, device, plan_dtype(), requests, plan, [&](const char* phase, const PhaseResults&) {
          accuracy.add(std::to_string(requests.front().width) + " x " +
                           std::to_string(requests.front().height) + ", budget " +
                           std::to_string(i) + ", " + phase,
                       plan.phase(phase).device_peak_bytes, device_peak(device).peak_allocated);
          release_device_memory(device);
          reset_device_peak(device);
        });
  }
}

}  // namespace steadyflux::testing
