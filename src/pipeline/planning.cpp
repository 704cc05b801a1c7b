#include "pipeline/planning.h"

#include <ATen/DeviceAccelerator.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "base/bytes.h"
#include "base/environment.h"
#include "memory/gpu_probe.h"
#include "memory/monitor.h"
#include "memory/probe.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

constexpr const char* kAllocatorVariable = "PYTORCH_CUDA_ALLOC_CONF";

}  // namespace

Budget live_budget(const PipelineOptions& options, c10::Device device,
                   const std::optional<MemorySample>& before_first_run) {
  const auto own = sample_process_memory();
  auto ram = ram_limit(probe_host_memory(), own, options.max_ram, AskedLimit::kCaps);
  // The others of this job begin at the same time, and see the same memory free.
  if (!options.max_ram) ram.bytes /= std::max(options.processes_here, 1);
  // Pages of libraries that earlier runs touched can be had back at any time: they must not make
  // what kept to --max-ram once too large.
  if (before_first_run && options.max_ram) {
    ram.bytes += std::max<std::int64_t>(own.rss - before_first_run->rss, 0);
  }
  Budget budget;
  if (device.is_cpu()) {
    budget = make_budget(ram, own.rss);
  } else {
    const auto [free, total] = at::accelerator::getMemoryInfo(device.index());
    const auto context = device.is_cuda() ? kCudaBytes : 0;
    const CardMemory card{static_cast<std::int64_t>(free), static_cast<std::int64_t>(total),
                          context};
    budget =
        make_budget(ram, own.rss, vram_limit(card, options.max_vram, AskedLimit::kCaps), context);
  }
  budget.warm = before_first_run.has_value();
  return budget;
}

void prepare_cuda(const PipelineOptions& options) {
  if (options.device == "cpu") return;
  const auto cards = probe_gpus();
  if (cards.gpus.empty()) return;
  const bool named = options.device.find(':') != std::string::npos;
  const auto index = named ? card_number(options.device)
                           : static_cast<std::size_t>(options.local_rank) % cards.gpus.size();
  if (index >= cards.gpus.size()) return;
  std::optional<std::int64_t> for_tensors;
  if (options.max_vram) {
    for_tensors = *options.max_vram - kCudaContextBytes;
    if (*for_tensors <= kCublasWorkspaceBytes) {
      throw Error(
          ErrorKind::kDoesNotFit,
          fmt::format("--max-vram {}: CUDA alone takes about {} of a card; give more, or use "
                      "--device cpu",
                      format_bytes(*options.max_vram), format_bytes(kCudaBytes)));
    }
  }
  auto existing = environment(kAllocatorVariable);
  if (existing.empty()) existing = environment("PYTORCH_ALLOC_CONF");
  const auto value = cuda_alloc_conf(existing, for_tensors, cards.gpus[index].total);
  ::setenv(kAllocatorVariable, value.c_str(), /*overwrite=*/1);
  ::setenv("CUBLAS_WORKSPACE_CONFIG", kCublasWorkspaceConfig, /*overwrite=*/0);
}

PlanOptions plan_options(const PipelineOptions& options) {
  PlanOptions plan;
  if (options.vae_tiling == "on") plan.vae_tiling = Tiling::kOn;
  if (options.vae_tiling == "off") plan.vae_tiling = Tiling::kOff;
  plan.cuda_graphs = options.cuda_graphs == "on";
  return plan;
}

}  // namespace steadyflux
