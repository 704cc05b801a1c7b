#include "pipeline/phase_runner.h"

#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <fmt/format.h>

#include <chrono>
#include <exception>

#include "base/bytes.h"
#include "memory/release.h"
#include "pipeline/device.h"
#include "pipeline/out_of_memory.h"

namespace steadyflux {
namespace {

// Gives what a phase freed back to the device and the system when the phase ends, however it ends.
struct ReleaseAtEnd {
  c10::Device device;
  ~ReleaseAtEnd() {
    try {
      release_device_memory(device);
    } catch (const c10::Error&) {  // a device in a bad way: the error that led here tells more
    }
    release_host_memory();
  }
};

MonitorOptions monitor_options(c10::Device device) {
  MonitorOptions options;
  if (!device.is_cpu()) options.device = [device] { return sample_device(device); };
  return options;
}

std::string residents(const Plan& plan) {
  const auto& weights = plan.phase("denoise").weights.front();
  return fmt::format("{} of {} parts of the transformer stay in place ({})",
                     weights.count(UnitPlace::kResident), weights.units.size(),
                     format_bytes(weights.bytes(UnitPlace::kResident)));
}

}  // namespace

PhaseRunner::PhaseRunner(RunSetting setting, Observer& observer)
    : setting_(std::move(setting)),
      observer_(observer),
      plan_(make_plan(setting_.model, setting_.workload, setting_.budget, setting_.plan_options)),
      monitor_(monitor_options(setting_.device)) {}

void PhaseRunner::run(const std::string& name, std::int64_t steps, const Body& body) {
  const auto device = setting_.device;
  observer_.phase_started(name, steps);
  const auto start = std::chrono::steady_clock::now();
  PhaseStats stats;
  stats.name = name;
  {
    const ReleaseAtEnd release{device};
    const auto predicted = [&](std::int64_t PhasePlan::*peak, std::int64_t context) {
      return std::max<std::int64_t>(plan_.phase(name).*peak - context, 0);
    };
    reset_device_peak(device);
    stats.predicted_ram = predicted(&PhasePlan::ram_peak_bytes, 0);
    stats.predicted_device =
        predicted(&PhasePlan::device_peak_bytes, setting_.budget.device_context);
    monitor_.phase_started(name, stats.predicted_ram, stats.predicted_device);
    pressure_.phase_started();
    while (!try_body(name, stats.load_seconds, body)) {
      release_device_memory(device);
      release_host_memory();
      plan_leaner();
    }
    synchronize_device(device);
    const auto peaks = monitor_.phase_finished();
    stats.device_peak_allocated = peaks.device_allocated;
    stats.device_peak_reserved = peaks.device_reserved;
    stats.peak_rss = peaks.rss;
    stats.peak_rss_anon = peaks.rss_anon;
    stats.peak_rss_file = peaks.rss_file;
    stats.major_faults = peaks.major_faults;
    stats.swap = peaks.swap;
    stats.disk_read = peaks.disk_read;
  }
  stats.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  observer_.phase_finished(stats);
}

// False if memory ran out and there is a leaner plan. What `body` held is free when this returns.
bool PhaseRunner::try_body(const std::string& name, double& load_seconds, const Body& body) {
  try {
    body(PhaseContext{setting_.model, setting_.device, setting_.dtype, observer_, load_seconds,
                      plan_,
                      [this](std::int64_t bytes_read) { return replan_under_pressure(bytes_read); },
                      setting_.latents, setting_.loras.get()});
    return true;
  } catch (const std::exception& error) {
    const auto detail = out_of_memory_detail(error);
    if (!detail || plan_.leanest) throw;
    const auto text = fmt::format("out of memory in {}{}: going on by a leaner plan", name,
                                  detail->empty() ? "" : fmt::format(" ({})", *detail));
    observer_.warning(text);
    monitor_.note(text);
    return false;
  }
}

void PhaseRunner::plan_leaner() {
  ++setting_.plan_options.leaner;
  plan_ = make_plan(setting_.model, setting_.workload, setting_.budget, setting_.plan_options);
  observer_.planned(plan_);
}

const Plan* PhaseRunner::replan_under_pressure(std::int64_t planned_reads) {
  pressure_.first_pass_done();
  const auto reason = pressure_.check(monitor_.sample_now(), planned_reads);
  if (!reason) return nullptr;
  monitor_.note(*reason);
  if (setting_.on_pressure == OnPressure::kAbort) {
    throw Error(ErrorKind::kDoesNotFit,
                fmt::format("memory is scarce: {}; stopped as --on-pressure abort says", *reason));
  }
  if (setting_.on_pressure == OnPressure::kWarn || plan_.leanest) {
    observer_.warning(fmt::format("memory is scarce: {}", *reason));
    return nullptr;
  }
  plan_leaner();
  observer_.warning(
      fmt::format("memory is scarce: {}; from here on {}", *reason, residents(plan_)));
  return &plan_;
}

MemoryTimeline PhaseRunner::timeline() const {
  auto timeline = monitor_.timeline();
  timeline.ram_budget = setting_.budget.ram;
  if (setting_.budget.has_device) {
    timeline.device_budget = setting_.budget.vram - setting_.budget.device_context;
  }
  return timeline;
}

}  // namespace steadyflux
