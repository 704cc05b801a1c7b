// Which tensors take whose memory. That results do not change is what the tests of the VAE show.
#include "nn/reused_buffers.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <thread>

namespace steadyflux {
namespace {

constexpr std::int64_t kMiB = std::int64_t{1} << 20;

at::Tensor bytes(std::int64_t size) { return at::empty({size}, at::kByte); }

const void* place_of_freed(std::int64_t size) { return bytes(size).const_data_ptr(); }

TEST(ReusedBuffers, ATensorTakesTheMemoryOfAFreedOne) {
  const ReusedBuffers reused;
  const auto* first = place_of_freed(5 * kMiB);
  const auto same = bytes(5 * kMiB);
  EXPECT_EQ(same.const_data_ptr(), first);
  EXPECT_NE(bytes(5 * kMiB).const_data_ptr(), first);  // which is taken
}

TEST(ReusedBuffers, SeveralSizesWaitAtOnce) {
  const ReusedBuffers reused;
  const void *large = nullptr, *small = nullptr;
  {
    const auto a = bytes(64 * kMiB), b = bytes(4 * kMiB);
    large = a.const_data_ptr();
    small = b.const_data_ptr();
  }
  const auto b = bytes(4 * kMiB), a = bytes(60 * kMiB);
  EXPECT_EQ(b.const_data_ptr(), small);
  EXPECT_EQ(a.const_data_ptr(), large);  // hardly larger than it has to be
}

std::int64_t resident_bytes() {
  std::int64_t size = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

TEST(ReusedBuffers, OtherSizesTakePages) {
  const ReusedBuffers reused;
  { const auto a = bytes(100 * kMiB).fill_(1), b = bytes(200 * kMiB).fill_(1); }
  const auto before = resident_bytes();
  auto larger = bytes(290 * kMiB);
  EXPECT_EQ(resident_bytes(), before);
  larger.fill_(2);
  EXPECT_NEAR(resident_bytes(), before, kMiB);
  auto beside = bytes(20 * kMiB).fill_(3);  // 10 of them are new
  EXPECT_NEAR(resident_bytes(), before + 10 * kMiB, kMiB);
  EXPECT_EQ(larger.min().item<int>(), 2);
  EXPECT_EQ(beside.min().item<int>(), 3);
}

TEST(ReusedBuffers, TensorsOutliveIt) {
  at::Tensor kept;
  {
    const ReusedBuffers reused;
    place_of_freed(2 * kMiB);
    kept = bytes(2 * kMiB);
  }
  kept.fill_(7);
  EXPECT_EQ(kept.sum().item<std::int64_t>(), 7 * 2 * kMiB);
}

TEST(ReusedBuffers, AnotherThreadMayFree) {
  const ReusedBuffers reused;
  auto tensor = bytes(3 * kMiB);
  const auto* place = tensor.const_data_ptr();
  std::thread([&] { tensor.reset(); }).join();
  EXPECT_EQ(bytes(3 * kMiB).const_data_ptr(), place);
}

TEST(ReusedBuffers, OneWithinAnotherSharesIts) {
  const ReusedBuffers outer;
  const auto* first = place_of_freed(6 * kMiB);
  {
    const ReusedBuffers inner;
    EXPECT_EQ(place_of_freed(6 * kMiB), first);
  }
  EXPECT_EQ(place_of_freed(6 * kMiB), first);
}

}  // namespace
}  // namespace steadyflux
