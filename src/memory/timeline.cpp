#include "memory/timeline.h"

#include <algorithm>
#include <utility>

namespace steadyflux {
namespace {

constexpr double kFirstResolution = 0.005;  // seconds: that of the fastest sampling
constexpr double kSamplesOfShortPhase = 64;

// How close two samples of a phase may lie.
double resolution_in(const MemoryTimeline& timeline, int phase, double resolution) {
  if (phase < 0) return resolution;
  const PhaseRecord& record = timeline.phases[static_cast<std::size_t>(phase)];
  return std::min(resolution, (record.end - record.start) / kSamplesOfShortPhase);
}

void merge_close_ones(MemoryTimeline& timeline, double resolution) {
  auto& samples = timeline.samples;
  std::size_t last = 0;
  for (std::size_t i = 1; i < samples.size(); ++i) {
    MemorySample& kept = samples[last];
    const double gap = samples[i].seconds - kept.seconds;
    if (samples[i].phase == kept.phase && gap < resolution_in(timeline, kept.phase, resolution)) {
      kept = merge_samples(kept, samples[i]);
    } else {
      samples[++last] = samples[i];
    }
  }
  samples.resize(last + 1);
}

void merge_pairs(std::vector<MemorySample>& samples) {
  const std::size_t half = samples.size() / 2;
  for (std::size_t i = 0; i < half; ++i) {
    samples[i] = merge_samples(samples[2 * i], samples[2 * i + 1]);
  }
  if (samples.size() % 2 != 0) samples[half] = samples.back();
  samples.resize(samples.size() - half);
}

void thin_out(MemoryTimeline& timeline, double& resolution, std::size_t max_samples) {
  auto& samples = timeline.samples;
  const std::size_t enough = max_samples - max_samples / 4;  // not again with the next sample
  const double span = samples.back().seconds - samples.front().seconds;
  while (samples.size() > enough && resolution < span) {
    resolution = std::max(kFirstResolution, 2 * resolution);
    merge_close_ones(timeline, resolution);
  }
  while (samples.size() > enough) merge_pairs(samples);  // more phases than there is room for
}

}  // namespace

MemorySample merge_samples(const MemorySample& earlier, const MemorySample& later) {
  MemorySample merged = later;
  merged.seconds = earlier.seconds;
  merged.phase = earlier.phase;
  const auto larger = [](std::int64_t& value, std::int64_t other) {
    value = std::max(value, other);
  };
  larger(merged.rss, earlier.rss);
  larger(merged.rss_anon, earlier.rss_anon);
  larger(merged.rss_file, earlier.rss_file);
  larger(merged.swap, earlier.swap);
  larger(merged.device.allocated, earlier.device.allocated);
  larger(merged.device.reserved, earlier.device.reserved);
  larger(merged.device.peak_allocated, earlier.device.peak_allocated);
  larger(merged.device.peak_reserved, earlier.device.peak_reserved);
  merged.available = std::min(merged.available, earlier.available);
  if (earlier.cgroup_used) {
    merged.cgroup_used = std::max(*earlier.cgroup_used, merged.cgroup_used.value_or(0));
  }
  if (earlier.stall) {
    if (!merged.stall) merged.stall = earlier.stall;
    merged.stall->some_avg10 = std::max(merged.stall->some_avg10, earlier.stall->some_avg10);
    merged.stall->full_avg10 = std::max(merged.stall->full_avg10, earlier.stall->full_avg10);
  }
  return merged;
}

void add_sample(MemoryTimeline& timeline, const MemorySample& sample, double& resolution,
                std::size_t max_samples) {
  auto& samples = timeline.samples;
  if (!samples.empty()) {
    MemorySample& last = samples.back();
    if (last.phase == sample.phase &&
        sample.seconds - last.seconds < resolution_in(timeline, sample.phase, resolution)) {
      last = merge_samples(last, sample);
      return;
    }
  }
  samples.push_back(sample);
  if (samples.size() > std::max<std::size_t>(max_samples, 2)) {
    thin_out(timeline, resolution, max_samples);
  }
}

void append_timeline(MemoryTimeline& timeline, MemoryTimeline next) {
  const double start = timeline.seconds;
  const int phases = static_cast<int>(timeline.phases.size());
  for (auto& sample : next.samples) {
    sample.seconds += start;
    if (sample.phase >= 0) sample.phase += phases;
    timeline.samples.push_back(sample);
  }
  for (auto& phase : next.phases) {
    phase.start += start;
    phase.end += start;
    timeline.phases.push_back(std::move(phase));
  }
  for (auto& event : next.events) {
    event.seconds += start;
    timeline.events.push_back(std::move(event));
  }
  timeline.seconds = start + next.seconds;
  timeline.title = std::move(next.title);
  timeline.ram_budget = next.ram_budget;
  timeline.device_budget = next.device_budget;
}

}  // namespace steadyflux
