#include "memory/budget.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "base/bytes.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kMiB = std::int64_t{1} << 20;
constexpr std::int64_t kUnknown = std::int64_t{1} << 60;  // no limit is known: nobody has 1 EiB

struct Margin {
  int percent;
  std::int64_t least;
  std::int64_t most;

  std::int64_t of(std::int64_t total) const {
    return std::clamp(total / 100 * percent, least, most);
  }
};
// For the desktop and whatever else runs; browsers and editors grow and shrink by this much.
constexpr Margin kRamMargin{5, 128 * kMiB, 1024 * kMiB};
// For a compositor and windows.
constexpr Margin kVramMargin{4, 64 * kMiB, 512 * kMiB};
// Inside a limit that was given: only for what the predictions may be wrong by.
constexpr Margin kAskedMargin{3, 48 * kMiB, 512 * kMiB};

std::string explain(std::int64_t bytes, const std::string& source) {
  return fmt::format("{}: {}", format_bytes(bytes), source);
}

MemoryLimit replaced(std::int64_t asked, const char* option) {
  const std::int64_t margin = kAskedMargin.of(asked);
  const std::int64_t bytes = std::max<std::int64_t>(0, asked - margin);
  return {bytes, explain(bytes, fmt::format("{} {}, less a margin of {}", option,
                                            format_bytes(asked), format_bytes(margin)))};
}

MemoryLimit capped(MemoryLimit probed, std::optional<std::int64_t> asked, const char* option) {
  if (!asked || *asked >= probed.bytes) return probed;
  return {*asked, explain(*asked, option)};
}

// What the machine has left, for RSS. Pages of files that this process has mapped count as
// available already (the kernel would drop them), so only its anonymous memory is added.
MemoryLimit machine_limit(const HostMemory& host, const MemorySample& own) {
  const std::int64_t held = own.rss_anon > 0 ? own.rss_anon : own.rss;
  const std::int64_t margin = kRamMargin.of(host.total);
  const std::int64_t bytes = std::max<std::int64_t>(0, host.available + held - margin);
  return {bytes, explain(bytes, fmt::format("{} of RAM available and {} held already, less a "
                                            "margin of {}",
                                            format_bytes(host.available), format_bytes(held),
                                            format_bytes(margin)))};
}

// What the control group leaves. Its use includes pages of files that are in use.
MemoryLimit group_limit(std::int64_t limit, std::int64_t used, const MemorySample& own) {
  const std::int64_t margin = kRamMargin.of(limit);
  const std::int64_t left = std::max<std::int64_t>(0, limit - used);
  const std::int64_t bytes = std::clamp<std::int64_t>(left + own.rss - margin, 0, limit);
  return {bytes,
          explain(bytes, fmt::format("{} left of the control group's limit of {} and {} "
                                     "held already, less a margin of {}",
                                     format_bytes(left), format_bytes(limit), format_bytes(own.rss),
                                     format_bytes(margin))),
          "control group"};
}

// What `ulimit -v` leaves. Address space is also taken by what never becomes RSS: the heaps that
// threads reserve, and the rest of every mapping.
MemoryLimit address_space_limit(std::int64_t left, const MemorySample& own) {
  constexpr std::int64_t kReserved = 128 * kMiB;
  const std::int64_t bytes = std::max<std::int64_t>(0, left + own.rss - kReserved);
  return {bytes,
          explain(bytes, fmt::format("{} left of the address space (ulimit -v) and {} held "
                                     "already, less a margin of {}",
                                     format_bytes(std::max<std::int64_t>(0, left)),
                                     format_bytes(own.rss), format_bytes(kReserved))),
          "ulimit -v"};
}

}  // namespace

MemoryLimit ram_limit(const HostMemory& host, const MemorySample& own,
                      std::optional<std::int64_t> max_ram, AskedLimit asked) {
  if (max_ram && asked == AskedLimit::kReplaces) return replaced(*max_ram, "--max-ram");
  MemoryLimit limit{kUnknown, "no limit: this system does not tell how much memory it has"};
  if (host.total > 0) limit = machine_limit(host, own);
  if (host.cgroup_limit) {
    MemoryLimit group = group_limit(*host.cgroup_limit, host.cgroup_used.value_or(0), own);
    if (group.bytes < limit.bytes) limit = std::move(group);
  }
  if (host.address_space_left) {
    MemoryLimit space = address_space_limit(*host.address_space_left, own);
    if (space.bytes < limit.bytes) limit = std::move(space);
  }
  return capped(std::move(limit), max_ram, "--max-ram");
}

MemoryLimit vram_limit(const std::optional<CardMemory>& card, std::optional<std::int64_t> max_vram,
                       AskedLimit asked) {
  if (max_vram && asked == AskedLimit::kReplaces) return replaced(*max_vram, "--max-vram");
  if (!card) return {0, explain(0, "no graphics card was found")};
  const std::int64_t margin = kVramMargin.of(card->total);
  const std::int64_t bytes = std::max<std::int64_t>(0, card->free + card->own - margin);
  return capped(
      {bytes,
       explain(bytes, fmt::format(
                          "{} free of {} on the card{}, less a margin of "
                          "{}",
                          format_bytes(card->free), format_bytes(card->total),
                          card->own == 0 ? "" : " and " + format_bytes(card->own) + " held already",
                          format_bytes(margin)))},
      max_vram, "--max-vram");
}

Budget make_budget(const MemoryLimit& ram, std::int64_t ram_base,
                   const std::optional<MemoryLimit>& vram, std::int64_t device_context) {
  Budget budget;
  budget.ram = ram.bytes;
  budget.ram_set_by = ram.set_by;
  budget.ram_base = ram_base;
  budget.has_device = vram.has_value();
  if (vram) {
    budget.vram = vram->bytes;
    budget.device_context = device_context;
  }
  return budget;
}

std::string cuda_alloc_conf(const std::string& existing,
                            std::optional<std::int64_t> vram_for_tensors, std::int64_t vram_total) {
  constexpr std::string_view kBlanks = " \t\n\v\f\r";  // libtorch ignores them
  std::string text;
  for (const char c : existing) {
    if (kBlanks.find(c) == std::string_view::npos) text += c;
  }
  while (!text.empty() && text.back() == ',') text.pop_back();
  const auto add = [&text](std::string_view key, const std::string& value) {
    // A key is what stands before the first colon of an entry.
    if (fmt::format(",{}", text).find(fmt::format(",{}:", key)) != std::string::npos) return;
    text += fmt::format("{}{}:{}", text.empty() ? "" : ",", key, value);
  };
  add("expandable_segments", "True");
  if (vram_for_tensors && *vram_for_tensors < vram_total) {
    // In ten-thousandths, rounded down without a detour over floating point.
    const std::int64_t share =
        std::max<std::int64_t>(0, *vram_for_tensors / 1024) * 10'000 / (vram_total / 1024 + 1);
    add("per_process_memory_fraction", fmt::format("{}.{:04}", share / 10'000, share % 10'000));
  }
  return text;
}

}  // namespace steadyflux
