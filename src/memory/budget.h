// How much memory the plan may use: what was probed, less a margin for everybody else, and what was
// asked for with --max-ram and --max-vram; each with a line that says where the number comes from.
// Pure functions. Swap is never counted: a plan that needs it would be slower than a smaller one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "memory/plan.h"
#include "memory/probe.h"
#include "memory/timeline.h"

namespace steadyflux {

struct MemoryLimit {
  std::int64_t bytes = 0;
  std::string reason;  // "13.10 GiB: 14.10 GiB of RAM available, less a margin of 1.00 GiB"
  // What sets it, where that is neither the machine nor an option: "ulimit -v".
  std::string set_by = {};
};

// What --max-ram and --max-vram mean.
enum class AskedLimit {
  kCaps,      // generate: at most that much of what was probed, exact
  kReplaces,  // plan: the machine has that much, wherever it is; a margin is taken off
};

// Bytes of RSS that this process may reach. `own`: its memory now.
MemoryLimit ram_limit(const HostMemory& host, const MemorySample& own,
                      std::optional<std::int64_t> max_ram, AskedLimit asked);

struct CardMemory {
  std::int64_t free = 0;
  std::int64_t total = 0;
  std::int64_t own = 0;  // held by this process already, its context included
};

// Bytes on the device that this process may reach, context included. Without a card and without
// max_vram that is 0.
MemoryLimit vram_limit(const std::optional<CardMemory>& card, std::optional<std::int64_t> max_vram,
                       AskedLimit asked);

// Without `vram` all happens in RAM. `device_context` is what the device's runtime takes there.
Budget make_budget(const MemoryLimit& ram, std::int64_t ram_base,
                   const std::optional<MemoryLimit>& vram = std::nullopt,
                   std::int64_t device_context = 0);

// The value for PYTORCH_CUDA_ALLOC_CONF: `existing` (what the user set, or ""),
// expandable_segments, without which the allocator of an H200 took 1.55 times what the decoder's
// tensors took, and, to hold the allocator to `vram_for_tensors` of a card with `vram_total`,
// per_process_memory_fraction, rounded down. What the user set stays as it is. libtorch reads the
// variable when its CUDA library is opened, and it comes before PYTORCH_ALLOC_CONF: where only that
// one is set, it is `existing`.
std::string cuda_alloc_conf(const std::string& existing,
                            std::optional<std::int64_t> vram_for_tensors, std::int64_t vram_total);

}  // namespace steadyflux
