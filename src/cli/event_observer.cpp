#include "cli/event_observer.h"

#include <cmath>
#include <utility>

#include "memory/plan.h"
#include "memory/probe.h"

namespace steadyflux::cli {
namespace {

constexpr double kStepsPerSecond = 20;

const char* kind_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInternal:
      return "internal";
    case ErrorKind::kUsage:
      return "usage";
    case ErrorKind::kBadInput:
      return "bad_input";
    case ErrorKind::kDoesNotFit:
      return "does_not_fit";
    case ErrorKind::kIo:
      return "io";
    case ErrorKind::kPartial:
      return "partial";
    case ErrorKind::kInterrupted:
      return "interrupted";
  }
  return "internal";
}

Json seconds_json(double seconds) { return std::round(seconds * 1000) / 1000; }

Json plan_event(const char* name, const Plan& plan) {
  Json event = {{"event", name},
                {"fits", plan.fits},
                {"leanest", plan.leanest},
                {"pictures", plan.workload.num_images},
                {"prompts", plan.workload.num_prompts},
                {"encode_group", plan.encode_group},
                {"denoise_group", plan.denoise_group},
                {"ram_peak_bytes", plan.ram_peak_bytes},
                {"device_peak_bytes", nullptr},
                {"disk_read_bytes", plan.disk_read_bytes},
                {"disk_read_bytes_per_step", plan.disk_read_bytes_per_step},
                {"phases", Json::array()}};
  const auto device_peak = [&plan](std::int64_t bytes) {
    return plan.budget.has_device ? Json(bytes) : Json(nullptr);
  };
  event["device_peak_bytes"] = device_peak(plan.device_peak_bytes);
  for (const PhasePlan& phase : plan.phases) {
    event["phases"].push_back({{"name", phase.name},
                               {"ram_peak_bytes", phase.ram_peak_bytes},
                               {"device_peak_bytes", device_peak(phase.device_peak_bytes)},
                               {"disk_read_bytes", phase.disk_read_bytes}});
  }
  return event;
}

}  // namespace

Json passes_json(const PassCounts& passes) {
  return {{"computed", passes.computed}, {"reused", passes.reused}};
}

Json phase_stats_json(const PhaseStats& stats) {
  Json json = {{"name", stats.name}};
  if (stats.stage > 0) json["stage"] = stats.stage;
  json.update({{"seconds", stats.seconds},
               {"load_seconds", stats.load_seconds},
               {"device_peak_allocated", stats.device_peak_allocated},
               {"device_peak_reserved", stats.device_peak_reserved},
               {"peak_rss", stats.peak_rss},
               {"peak_rss_anon", stats.peak_rss_anon},
               {"peak_rss_file", stats.peak_rss_file},
               {"major_faults", stats.major_faults},
               {"disk_read", stats.disk_read},
               {"swap", stats.swap},
               {"predicted_device", stats.predicted_device},
               {"predicted_ram", stats.predicted_ram}});
  return json;
}

EventObserver::EventObserver(EventLog& log, Observer& next, EventSources sources)
    : log_(log),
      next_(next),
      sources_(std::move(sources)),
      clock_(sources_.now),
      rate_(kStepsPerSecond, sources_.now),
      start_(sources_.now()) {
  if (!sources_.available) {
    sources_.available = [] { return probe_host_memory().available; };
  }
}

void EventObserver::planned(const Plan& plan) {
  next_.planned(plan);
  // Another one for what is under way already.
  log_.write(plan_event(in_phase_ ? "plan_changed" : "plan", plan));
}

void EventObserver::memory_seen(const MemoryTimeline& timeline) {
  next_.memory_seen(timeline);
  in_phase_ = false;  // also when the phase ended by an exception
}

void EventObserver::stage_started(const StageInfo& stage) {
  next_.stage_started(stage);
  log_.write({{"event", "stage"},
              {"stage", stage.number},
              {"stages", stage.count},
              {"width", stage.width},
              {"height", stage.height},
              {"steps", stage.steps}});
}

void EventObserver::phase_started(const std::string& name, std::int64_t total_steps) {
  next_.phase_started(name, total_steps);
  in_phase_ = true;
  clock_.start(name, total_steps);
  rate_.reset();
  phase_begin_ = sources_.process();
  log_.write({{"event", "phase_started"}, {"phase", name}, {"total", total_steps}});
}

void EventObserver::phase_progress(std::int64_t steps_done) {
  next_.phase_progress(steps_done);
  clock_.step(steps_done);
  if (!log_.is_on()) return;
  const bool is_last = steps_done >= clock_.total();
  if (!rate_.pass() && !is_last) return;
  const MemorySample process = sources_.process();
  const auto remaining = clock_.remaining();
  log_.write(
      {{"event", "step"},
       {"phase", clock_.name()},
       {"step", steps_done},
       {"total", clock_.total()},
       {"eta_seconds", remaining ? seconds_json(*remaining) : Json(nullptr)},
       {"rss", process.rss},
       {"mem_available", sources_.available()},
       {"vram_allocated", sources_.device ? Json(sources_.device().allocated) : Json(nullptr)},
       {"disk_read", process.disk_read - phase_begin_.disk_read},
       {"major_faults", process.major_faults - phase_begin_.major_faults}});
}

void EventObserver::phase_finished(const PhaseStats& stats) {
  next_.phase_finished(stats);
  in_phase_ = false;
  Json event = {{"event", "phase_finished"}, {"phase", stats.name}};
  event.update(phase_stats_json(stats));
  event.erase("name");
  log_.write(std::move(event));
}

void EventObserver::warning(const std::string& message) {
  next_.warning(message);
  log_.write({{"event", "warning"}, {"message", message}});
}

void EventObserver::started(std::int64_t pictures, std::int64_t skipped) {
  log_.write({{"event", "started"}, {"pictures", pictures}, {"skipped", skipped}});
}

void EventObserver::chunk_started(std::int64_t chunk, std::int64_t pictures) {
  log_.write({{"event", "chunk_started"}, {"chunk", chunk}, {"pictures", pictures}});
}

void EventObserver::memory_released(const MemorySample& before, const MemorySample& after) {
  const auto device = [this](const DeviceSample& sample) {
    return sources_.device ? Json(sample.reserved) : Json(nullptr);
  };
  log_.write({{"event", "memory_released"},
              {"rss_before", before.rss},
              {"rss_after", after.rss},
              {"vram_reserved_before", device(before.device)},
              {"vram_reserved_after", device(after.device)}});
}

void EventObserver::picture(const PictureEvent& picture) {
  Json event = {{"event", "picture"},
                {"index", picture.index},
                {"prompt_index", picture.prompt_index},
                {"output", picture.output},
                {"seed", picture.seed},
                {"seconds", seconds_json(picture.seconds)}};
  if (picture.passes) event["passes"] = passes_json(*picture.passes);
  log_.write(std::move(event));
}

void EventObserver::error(const Error& error, std::optional<std::int64_t> prompt_index) {
  log_.write({{"event", "error"},
              {"kind", kind_name(error.kind())},
              {"message", error.what()},
              {"prompt_index", prompt_index ? Json(*prompt_index) : Json(nullptr)}});
}

void EventObserver::finished(const BatchEnd& end) {
  log_.write({{"event", "finished"},
              {"pictures", end.pictures},
              {"skipped", end.skipped},
              {"failed", end.failed},
              {"seconds", seconds_json(sources_.now() - start_)},
              {"exit_code", end.exit_code}});
}

}  // namespace steadyflux::cli
