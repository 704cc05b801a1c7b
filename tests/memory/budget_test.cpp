#include "memory/budget.h"

#include <gtest/gtest.h>

namespace steadyflux {
namespace {

constexpr std::int64_t kMiB = std::int64_t{1} << 20;
constexpr std::int64_t kGiB = std::int64_t{1} << 30;

HostMemory machine(std::int64_t total, std::int64_t available) {
  HostMemory host;
  host.total = total;
  host.available = available;
  return host;
}

MemorySample process(std::int64_t anon, std::int64_t file) {
  MemorySample own;
  own.rss = anon + file;
  own.rss_anon = anon;
  own.rss_file = file;
  return own;
}

std::int64_t ram(const HostMemory& host, const MemorySample& own,
                 std::optional<std::int64_t> max_ram = std::nullopt,
                 AskedLimit asked = AskedLimit::kCaps) {
  return ram_limit(host, own, max_ram, asked).bytes;
}

TEST(RamLimit, WhatIsAvailableAndHeldLessAMargin) {
  const MemorySample own = process(100 * kMiB, 200 * kMiB);
  // 5 % of 8 GiB; file pages count as available, they are not added again.
  EXPECT_EQ(ram(machine(8 * kGiB, 6 * kGiB), own), 6 * kGiB + 100 * kMiB - 8 * kGiB / 100 * 5);
  EXPECT_EQ(ram(machine(64 * kGiB, 60 * kGiB), own), 59 * kGiB + 100 * kMiB);    // at most 1 GiB
  EXPECT_EQ(ram(machine(1 * kGiB, 512 * kMiB), own), (512 + 100 - 128) * kMiB);  // at least 128 MiB
  EXPECT_EQ(ram(machine(1 * kGiB, 10 * kMiB), MemorySample{}), 0);
}

TEST(RamLimit, SwapIsNotCounted) {
  HostMemory host = machine(8 * kGiB, 6 * kGiB);
  const std::int64_t without = ram(host, MemorySample{});
  host.swap_total = host.swap_free = 32 * kGiB;
  EXPECT_EQ(ram(host, MemorySample{}), without);
}

TEST(RamLimit, ProcessWhoseKindsOfMemoryAreNotKnown) {
  MemorySample own;
  own.rss = 300 * kMiB;
  EXPECT_EQ(ram(machine(64 * kGiB, 60 * kGiB), own), 59 * kGiB + 300 * kMiB);
}

TEST(RamLimit, TheAddressSpaceIsTighter) {
  HostMemory host = machine(64 * kGiB, 60 * kGiB);
  host.address_space_left = 500 * kMiB;
  const MemorySample own = process(100 * kMiB, 200 * kMiB);
  const MemoryLimit limit = ram_limit(host, own, std::nullopt, AskedLimit::kCaps);
  EXPECT_EQ(limit.bytes, (500 + 300 - 128) * kMiB);
  EXPECT_NE(limit.reason.find("ulimit -v"), std::string::npos) << limit.reason;
  EXPECT_EQ(make_budget(limit, 0).ram_set_by, "ulimit -v");
  host.address_space_left = -4 * kGiB;  // the stacks alone are more than is left
  EXPECT_EQ(ram(host, own), 0);
  host.address_space_left = 100 * kGiB;
  EXPECT_EQ(ram(host, own), 59 * kGiB + 100 * kMiB);
}

TEST(RamLimit, TheControlGroupIsTighter) {
  HostMemory host = machine(64 * kGiB, 60 * kGiB);
  host.cgroup_limit = 8 * kGiB;
  host.cgroup_used = 1 * kGiB;
  const MemorySample own = process(100 * kMiB, 200 * kMiB);
  const MemoryLimit limit = ram_limit(host, own, std::nullopt, AskedLimit::kCaps);
  EXPECT_EQ(limit.bytes, 7 * kGiB + 300 * kMiB - 8 * kGiB / 100 * 5);
  EXPECT_EQ(limit.reason,
            "6.89 GiB: 7.00 GiB left of the control group's limit of 8.00 GiB and 300.00 MiB held "
            "already, less a margin of 409.60 MiB");
  // More than what is available on the machine does not help.
  host.cgroup_limit = 256 * kGiB;
  EXPECT_EQ(ram(host, own), 59 * kGiB + 100 * kMiB);
}

TEST(RamLimit, MoreUsedThanTheGroupsLimit) {
  HostMemory host = machine(64 * kGiB, 60 * kGiB);
  host.cgroup_limit = 1 * kGiB;
  host.cgroup_used = 2 * kGiB;  // the limit was lowered under a running program
  EXPECT_EQ(ram(host, process(50 * kMiB, 0)), 0);
}

TEST(RamLimit, ACapIsExactAndOnlyLowers) {
  const HostMemory host = machine(16 * kGiB, 12 * kGiB);
  const MemoryLimit capped = ram_limit(host, MemorySample{}, 6 * kGiB, AskedLimit::kCaps);
  EXPECT_EQ(capped.bytes, 6 * kGiB);
  EXPECT_EQ(capped.reason, "6.00 GiB: --max-ram");
  const MemoryLimit large = ram_limit(host, MemorySample{}, 100 * kGiB, AskedLimit::kCaps);
  EXPECT_EQ(large.bytes, 12 * kGiB - 16 * kGiB / 100 * 5);
  EXPECT_EQ(large.reason,
            "11.20 GiB: 12.00 GiB of RAM available and 0 B held already, less a margin of "
            "819.20 MiB");
}

TEST(RamLimit, AReplacementIsTheWholeMachine) {
  const HostMemory host = machine(4 * kGiB, 1 * kGiB);
  const MemoryLimit limit = ram_limit(host, process(kGiB, 0), 16 * kGiB, AskedLimit::kReplaces);
  EXPECT_EQ(limit.bytes, 16 * kGiB - 16 * kGiB / 100 * 3);
  EXPECT_EQ(limit.reason, "15.52 GiB: --max-ram 16.00 GiB, less a margin of 491.52 MiB");
  EXPECT_EQ(ram(host, {}, 64 * kGiB, AskedLimit::kReplaces), 64 * kGiB - 512 * kMiB);
  EXPECT_EQ(ram(host, {}, 1 * kGiB, AskedLimit::kReplaces), (1024 - 48) * kMiB);
  EXPECT_EQ(ram(host, {}, 10 * kMiB, AskedLimit::kReplaces), 0);
  // Without one, plan has what generate would have.
  EXPECT_EQ(ram(host, {}, std::nullopt, AskedLimit::kReplaces), ram(host, {}));
}

TEST(RamLimit, ASystemThatTellsNothing) {
  EXPECT_GE(ram(HostMemory{}, MemorySample{}), std::int64_t{1} << 50);
  EXPECT_EQ(ram(HostMemory{}, MemorySample{}, 3 * kGiB), 3 * kGiB);
}

TEST(VramLimit, FreeAndOwnLessAMargin) {
  const auto vram = [](CardMemory card) {
    return vram_limit(card, std::nullopt, AskedLimit::kCaps).bytes;
  };
  EXPECT_EQ(vram({.free = 7 * kGiB, .total = 8 * kGiB}), 7 * kGiB - 8 * kGiB / 100 * 4);
  EXPECT_EQ(vram({.free = 6 * kGiB, .total = 8 * kGiB, .own = kGiB}),
            7 * kGiB - 8 * kGiB / 100 * 4);
  EXPECT_EQ(vram({.free = 79 * kGiB, .total = 80 * kGiB}), 79 * kGiB - 512 * kMiB);
  EXPECT_EQ(vram({.free = 1 * kGiB, .total = 1 * kGiB}), (1024 - 64) * kMiB);
  EXPECT_EQ(vram({.free = 1 * kMiB, .total = 1 * kGiB}), 0);
}

TEST(VramLimit, Asked) {
  const CardMemory card{.free = 20 * kGiB, .total = 24 * kGiB, .own = 512 * kMiB};
  const MemoryLimit capped = vram_limit(card, 8 * kGiB, AskedLimit::kCaps);
  EXPECT_EQ(capped.bytes, 8 * kGiB);
  EXPECT_EQ(capped.reason, "8.00 GiB: --max-vram");
  EXPECT_EQ(vram_limit(card, 48 * kGiB, AskedLimit::kCaps).reason,
            "20.00 GiB: 20.00 GiB free of 24.00 GiB on the card and 512.00 MiB held already, less "
            "a margin of 512.00 MiB");
  EXPECT_EQ(vram_limit(std::nullopt, 8 * kGiB, AskedLimit::kReplaces).bytes,
            8 * kGiB - 8 * kGiB / 100 * 3);
  EXPECT_EQ(vram_limit(std::nullopt, std::nullopt, AskedLimit::kReplaces).bytes, 0);
}

TEST(MakeBudget, WithAndWithoutADevice) {
  const Budget cpu = make_budget({5 * kGiB, ""}, 200 * kMiB);
  EXPECT_FALSE(cpu.has_device);
  EXPECT_EQ(cpu.ram, 5 * kGiB);
  EXPECT_EQ(cpu.ram_base, 200 * kMiB);
  EXPECT_EQ(cpu.vram, 0);
  const Budget gpu = make_budget({5 * kGiB, ""}, 200 * kMiB, MemoryLimit{7 * kGiB, ""}, 480 * kMiB);
  EXPECT_TRUE(gpu.has_device);
  EXPECT_EQ(gpu.vram, 7 * kGiB);
  EXPECT_EQ(gpu.device_context, 480 * kMiB);
}

TEST(CudaAllocConf, AddsTheFraction) {
  EXPECT_EQ(cuda_alloc_conf("", 6 * kGiB, 24 * kGiB),
            "expandable_segments:True,per_process_memory_fraction:0.2499");
  EXPECT_EQ(cuda_alloc_conf("expandable_segments:False", 6 * kGiB, 8 * kGiB),
            "expandable_segments:False,per_process_memory_fraction:0.7499");
  EXPECT_EQ(cuda_alloc_conf("max_split_size_mb:64, ", 8 * kGiB - 1, 8 * kGiB),
            "max_split_size_mb:64,expandable_segments:True,per_process_memory_fraction:0.9999");
  EXPECT_EQ(cuda_alloc_conf("roundup_power2_divisions:[256:1,512:2]", 0, 8 * kGiB),
            "roundup_power2_divisions:[256:1,512:2],expandable_segments:True,"
            "per_process_memory_fraction:0.0000");
  EXPECT_EQ(cuda_alloc_conf("", -5, 8 * kGiB),
            "expandable_segments:True,per_process_memory_fraction:0.0000");
}

TEST(CudaAllocConf, NeverAboveWhatWasAsked) {
  for (std::int64_t total = 2 * kGiB; total < 200 * kGiB; total += 7 * kGiB + 12'345) {
    for (std::int64_t asked = total / 9; asked < total; asked += total / 13) {
      const std::string text = cuda_alloc_conf("", asked, total);
      const double fraction = std::stod(text.substr(text.rfind(':') + 1));
      EXPECT_LE(fraction * static_cast<double>(total), static_cast<double>(asked));
      // Rounding takes at most two ten-thousandths of the card: one for the digits, one for KiB.
      EXPECT_GE((fraction + 0.0002) * static_cast<double>(total), static_cast<double>(asked));
    }
  }
}

TEST(CudaAllocConf, LeavesWhatNeedsNoChange) {
  const std::string own = "per_process_memory_fraction:0.5,expandable_segments:False";
  EXPECT_EQ(cuda_alloc_conf(own, 6 * kGiB, 24 * kGiB), own);
  EXPECT_EQ(cuda_alloc_conf("expandable_segments : True,\tper_process_memory_fraction:0.9",
                            6 * kGiB, 24 * kGiB),
            "expandable_segments:True,per_process_memory_fraction:0.9");
  const std::string more = "a:b,expandable_segments:True";
  EXPECT_EQ(cuda_alloc_conf("a:b", 24 * kGiB, 24 * kGiB), more);  // all of the card
  EXPECT_EQ(cuda_alloc_conf("a:b", kGiB, 0), more);               // nothing is known of it
  EXPECT_EQ(cuda_alloc_conf("a:b", std::nullopt, 24 * kGiB), more);
  EXPECT_EQ(cuda_alloc_conf("my_per_process_memory_fraction:1", 4 * kGiB, 8 * kGiB),
            "my_per_process_memory_fraction:1,expandable_segments:True,"
            "per_process_memory_fraction:0.4999");
}

}  // namespace
}  // namespace steadyflux
