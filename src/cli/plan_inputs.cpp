#include "cli/plan_inputs.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "memory/budget.h"
#include "memory/gpu_probe.h"
#include "memory/monitor.h"
#include "memory/probe.h"
#include "memory/time_estimate.h"
#include "nn/compute.h"
#include "pipeline/dtypes.h"
#include "pipeline/planning.h"
#include "pipeline/speed_probe.h"
#include "pipeline/stages.h"
#include "pipeline/stored_model.h"
#include "pipeline/workload.h"
#include "steadyflux/error.h"

namespace steadyflux::cli {
namespace {

// By this much the RSS of a process that has just started differs from run to run.
constexpr std::int64_t kStartVaries = std::int64_t{2} << 20;

// The smallest size to ask for that leaves at least `needed` after the margin. 0 stays 0.
template <typename Limit>
std::int64_t invert(std::int64_t needed, Limit limit) {
  if (needed <= 0) return 0;
  std::int64_t low = needed - 1;  // too little
  std::int64_t high = needed + 1;
  while (limit(high) < needed) high += high - low;
  while (high - low > 1) {
    const std::int64_t middle = low + (high - low) / 2;
    (limit(middle) < needed ? low : high) = middle;
  }
  return high;
}

std::int64_t ask_for_vram(std::int64_t needed) {
  return invert(needed, [](std::int64_t bytes) {
    return vram_limit(std::nullopt, bytes, AskedLimit::kReplaces).bytes;
  });
}

std::int64_t ask_for_ram(std::int64_t needed) {
  if (needed <= 0) return 0;
  return invert(needed + kStartVaries, [](std::int64_t bytes) {
    return ram_limit({}, {}, bytes, AskedLimit::kReplaces).bytes;
  });
}

// Nothing if pictures would be made on the CPU; else `device` is the card's.
std::optional<MemoryLimit> limit_of_card(const PipelineOptions& options, std::string& device) {
  if (options.device == "cpu") return std::nullopt;
  const bool any = options.device == "auto";
  if (options.max_vram) {
    device = any ? "cuda" : options.device;
    return vram_limit(std::nullopt, options.max_vram, AskedLimit::kReplaces);
  }
  const GpuProbe probe = probe_gpus();
  const std::size_t number = any ? 0 : card_number(options.device);
  if (number >= probe.gpus.size()) {
    if (any) return std::nullopt;
    throw Error(
        ErrorKind::kUsage,
        fmt::format("--device {}: no such card is known here: {}; say how much memory it "
                    "has, for example --max-vram 8GiB",
                    options.device, probe.problem.empty() ? "there are fewer" : probe.problem));
  }
  device = any ? "cuda" : options.device;
  const GpuMemory& gpu = probe.gpus[number];
  return vram_limit(CardMemory{.free = gpu.free, .total = gpu.total, .own = 0}, std::nullopt,
                    AskedLimit::kReplaces);
}

// How fast the machine is that is planned for. Only the CPU is at hand.
MachineSpeed speed_of(const GenerateJob& job, const PlanInputs& inputs) {
  if (job.time_limit.tflops) return {.flops = *job.time_limit.tflops * 1e12};
  if (inputs.budget.has_device) {
    throw Error(ErrorKind::kUsage,
                fmt::format("--max-seconds for {}: `plan` opens no card and cannot measure it; say "
                            "what it computes, for example --tflops 20",
                            inputs.title.device));
  }
  at::set_num_threads(inputs.workload.num_threads);
  return measure_speed(c10::Device(c10::kCPU), *dtype_of_name(inputs.workload.dtype),
                       *compute_of_name(inputs.workload.compute));
}

void take_largest_size(const GenerateJob& job, PlanInputs& inputs) {
  auto& work = inputs.workload;
  MachineSpeed speed;
  std::function<bool(const Plan&)> accepts;
  const auto& most = job.time_limit.max_seconds;
  if (most) {
    speed = speed_of(job, inputs);
    accepts = within_seconds(job.model, speed, *most);
  }
  const auto sides =
      largest_size(job.model, work, inputs.budget, inputs.options, job.aspect, accepts);
  const auto smallest = 2 * job.model.vae.scale_factor();
  work.width = sides ? sides->width : smallest;
  work.height = sides ? sides->height : smallest;
  if (!most) return;
  const auto plan = make_plan(job.model, work, inputs.budget, inputs.options);
  if (!sides) throw_if_too_slow(job.model, plan, speed, *most);
  inputs.title.seconds = seconds_a_picture(job.model, plan, speed);
}

}  // namespace

PlanInputs make_plan_inputs(const GenerateJob& job) {
  const PipelineOptions& pipeline = job.pipeline;
  PlanInputs inputs;
  const int threads = pipeline.num_threads > 0 ? pipeline.num_threads : physical_cores();
  inputs.options = plan_options(pipeline);

  inputs.title = {.model = job.model.name, .device = "cpu"};
  const std::optional<MemoryLimit> vram = limit_of_card(pipeline, inputs.title.device);
  if (vram) inputs.title.vram_reason = vram->reason;
  if (!vram) check_compute(*compute_of_name(pipeline.compute), c10::Device(c10::kCPU));
  const MemorySample own = sample_process_memory();
  const MemoryLimit ram =
      ram_limit(probe_host_memory(), own, pipeline.max_ram, AskedLimit::kReplaces);
  inputs.title.ram_reason = ram.reason;
  inputs.budget = make_budget(ram, own.rss + (vram ? kCudaHostBytes : 0), vram, kCudaBytes);

  const Request planned = last_stage(job.request, 2 * job.model.vae.scale_factor());
  std::vector<Request> requests(job.num_prompts, planned);
  // Different ones, and none the negative prompt, which all share.
  for (std::size_t i = 0; i < requests.size(); ++i) {
    requests[i].prompt = fmt::format("prompt {}", i);
  }
  const auto stored = find_stored_model(job.model);
  const auto chunk = best_chunk_size(
      job.model, std::span(requests).first(std::min(requests.size(), job.chunk_size)), stored,
      pipeline.dtype, threads, inputs.budget, inputs.options, pipeline.compute);
  inputs.workload = make_workload(make_chunk(job.model, std::span(requests).first(chunk)), stored,
                                  pipeline.dtype, threads, pipeline.compute);
  if (job.finds_largest) take_largest_size(job, inputs);
  inputs.title.chunks = static_cast<std::int64_t>((requests.size() + chunk - 1) / chunk);
  return inputs;
}

Remedies find_remedies(const FluxModel& model, const PlanInputs& inputs) {
  Remedies remedies =
      steadyflux::find_remedies(model, inputs.workload, inputs.budget, inputs.options);
  for (std::int64_t* vram : {&remedies.alone.vram, &remedies.vram}) *vram = ask_for_vram(*vram);
  for (std::int64_t* ram : {&remedies.alone.ram, &remedies.ram}) *ram = ask_for_ram(*ram);
  return remedies;
}

}  // namespace steadyflux::cli
