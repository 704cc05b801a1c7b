// The simulated device keeps its promises: tests that rest on it mean nothing otherwise. And the
// functions of pipeline/device.h measure right on it.
#include "simulated_device/simulated_device.h"

#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include "pipeline/device.h"

namespace steadyflux {
namespace {

using testing::device_bytes;
using testing::simulated_device;

class SimulatedDevice : public ::testing::Test {
 protected:
  SimulatedDevice() { release_device_memory(device_); }
  ~SimulatedDevice() override {
    testing::set_device_limit(testing::kNoLimit);
    testing::fail_at_allocation(0);
  }

  c10::CachingDeviceAllocator::DeviceStats stats() const {
    return at::accelerator::getDeviceStats(device_.index());
  }
  at::Tensor bytes_on_device(std::int64_t count) const {
    return at::empty({count}, at::TensorOptions().dtype(at::kByte).device(device_));
  }

  const c10::InferenceMode inference_mode_;
  const c10::Device device_ = simulated_device();
};

TEST_F(SimulatedDevice, IsTheAccelerator) {
  EXPECT_EQ(at::accelerator::getAccelerator(), c10::DeviceType::PrivateUse1);
  EXPECT_EQ(at::accelerator::deviceCount(), 1);
  testing::set_device_limit(5000);
  const auto held = bytes_on_device(2000);
  const auto [free, total] = at::accelerator::getMemoryInfo(0);
  EXPECT_EQ(free, 3000u);
  EXPECT_EQ(total, 5000u);
}

TEST_F(SimulatedDevice, CopiesKeepValuesThroughStridesAndDtypes) {
  const auto x = at::randn({3, 5, 4});
  EXPECT_TRUE(at::equal(x.to(device_).cpu(), x));
  EXPECT_TRUE(at::equal(x.to(device_).transpose(0, 2).narrow(1, 1, 3).cpu(),
                        x.transpose(0, 2).narrow(1, 1, 3)));
  EXPECT_TRUE(at::equal(x.to(device_, at::kBFloat16).cpu(), x.to(at::kBFloat16)));
  auto y = at::zeros({3, 8}, at::TensorOptions().device(device_));
  y.narrow(1, 2, 4).copy_(x.select(1, 0));
  EXPECT_TRUE(at::equal(y.cpu().narrow(1, 2, 4), x.select(1, 0)));
  EXPECT_EQ(y.cpu().narrow(1, 0, 2).abs().sum().item<float>(), 0);
  EXPECT_EQ(y.select(0, 1).select(0, 3).item<float>(), x[1][0][1].item<float>());
}

TEST_F(SimulatedDevice, RefusesTensorsOfTheCpu) {
  const auto here = at::ones({2, 3}), there = here.to(device_);
  EXPECT_THROW(here + there, c10::Error);
  EXPECT_THROW(there + here, c10::Error);
  EXPECT_THROW(at::linear(there, here), c10::Error);
  EXPECT_THROW(at::cat({there, here}), c10::Error);
  EXPECT_THROW(at::embedding(here, at::zeros({1}, at::TensorOptions(at::kLong).device(device_))),
               c10::Error);
  EXPECT_TRUE(at::equal((there + 1).cpu(), here + 1));
}

TEST_F(SimulatedDevice, ItsAddressesAreNotTheHosts) {
  const auto x = at::ones({4}, at::TensorOptions().device(device_));
  const auto* address = static_cast<const volatile float*>(x.const_data_ptr());
  EXPECT_DEATH({ [[maybe_unused]] const float value = *address; }, "");
}

TEST_F(SimulatedDevice, PeaksAreWhatWasAllocated) {
  reset_device_peak(device_);
  auto first = bytes_on_device(1000);
  const auto second = bytes_on_device(3000);
  first.reset();
  const auto third = bytes_on_device(500);
  EXPECT_EQ(device_bytes(), 3500);
  EXPECT_EQ(device_peak(device_).peak_allocated, 4000);
  EXPECT_EQ(device_peak(device_).peak_reserved, 4000);

  reset_device_peak(device_);
  EXPECT_EQ(device_peak(device_).peak_allocated, 3500);
  EXPECT_EQ(device_peak(device_).peak_reserved, 4000);  // 500 bytes are cached
  release_device_memory(device_);
  reset_device_peak(device_);
  EXPECT_EQ(device_peak(device_).peak_reserved, 3500);
}

TEST_F(SimulatedDevice, OnTheCpuThereIsNothingToMeasure) {
  const c10::Device cpu(c10::kCPU);
  reset_device_peak(cpu);
  synchronize_device(cpu);
  release_device_memory(cpu);
  EXPECT_EQ(device_peak(cpu).peak_allocated, 0);
  EXPECT_EQ(device_peak(cpu).peak_reserved, 0);
}

TEST_F(SimulatedDevice, RunsOutOfMemory) {
  testing::set_device_limit(1000);
  auto held = bytes_on_device(800);
  EXPECT_THROW(bytes_on_device(201), c10::OutOfMemoryError);
  EXPECT_NO_THROW(bytes_on_device(200));
  held.reset();
  EXPECT_NO_THROW(bytes_on_device(1000));  // what is cached does not stand in the way

  testing::fail_at_allocation(2);
  EXPECT_NO_THROW(bytes_on_device(1));
  EXPECT_THROW(bytes_on_device(1), c10::OutOfMemoryError);
  EXPECT_NO_THROW(bytes_on_device(1));
  EXPECT_EQ(testing::device_allocations(), 3);

  testing::fail_from_allocation(2);
  EXPECT_NO_THROW(bytes_on_device(1));
  for (int i = 0; i < 3; ++i) EXPECT_THROW(bytes_on_device(1), c10::OutOfMemoryError);
  testing::fail_from_allocation(0);
  EXPECT_NO_THROW(bytes_on_device(1));
}

TEST_F(SimulatedDevice, GivesItsCacheBackBeforeItGivesUp) {
  testing::set_device_limit(1000);
  const auto retries = stats().num_alloc_retries, ooms = stats().num_ooms;
  const auto held = bytes_on_device(300);
  EXPECT_THROW(bytes_on_device(701), c10::OutOfMemoryError);  // nothing is cached
  EXPECT_EQ(stats().num_alloc_retries - retries, 0);
  EXPECT_EQ(stats().num_ooms - ooms, 1);

  bytes_on_device(400);  // and is cached
  bytes_on_device(250);  // a part of that
  EXPECT_EQ(stats().num_alloc_retries - retries, 0);
  EXPECT_EQ(stats().reserved_bytes[0].current, 700);
  EXPECT_NO_THROW(bytes_on_device(500));  // neither fits into the cache nor beside it
  EXPECT_EQ(stats().num_alloc_retries - retries, 1);
  EXPECT_EQ(stats().reserved_bytes[0].current, 800);
  EXPECT_THROW(bytes_on_device(701), c10::OutOfMemoryError);
  EXPECT_EQ(stats().num_alloc_retries - retries, 2);
  EXPECT_EQ(stats().num_ooms - ooms, 2);
}

TEST_F(SimulatedDevice, ReservesNoMoreThanItHas) {
  testing::set_device_limit(10000);
  reset_device_peak(device_);
  std::vector<at::Tensor> held(16);
  std::uint32_t random = 1;
  int failures = 0;
  for (int i = 0; i < 2000; ++i) {
    random = random * 1664525 + 1013904223;
    auto& slot = held[(random >> 8) % held.size()];
    slot.reset();
    const auto wanted = static_cast<std::int64_t>((random >> 16) % 1500 + 1);
    const auto fits = device_bytes() + wanted <= 10000;
    try {
      slot = bytes_on_device(wanted);
      EXPECT_TRUE(fits);
    } catch (const c10::OutOfMemoryError&) {
      EXPECT_FALSE(fits);
      ++failures;
    }
    std::int64_t sum = 0;
    for (const auto& tensor : held) sum += tensor.defined() ? tensor.numel() : 0;
    ASSERT_EQ(device_bytes(), sum);
    ASSERT_LE(sum, stats().reserved_bytes[0].current);
    ASSERT_LE(stats().reserved_bytes[0].current, 10000);
  }
  EXPECT_GT(failures, 10);
  EXPECT_LE(device_peak(device_).peak_reserved, 10000);
  EXPECT_LE(testing::largest_device_allocation(), 1500);
  held.clear();
  release_device_memory(device_);
  EXPECT_EQ(stats().reserved_bytes[0].current, 0);
}

TEST_F(SimulatedDevice, NewMemoryIsNoNumber) {
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const auto x = at::empty({5}, at::TensorOptions().dtype(dtype).device(device_));
    EXPECT_TRUE(x.cpu().isnan().all().item<bool>());
  }
}

// Layouts included: what the device computes is what the CPU computes, to the bit.
TEST_F(SimulatedDevice, ComputesAsTheCpuDoes) {
  const auto x = at::randn({2, 6, 8, 8}), weight = at::randn({4, 6, 3, 3}), gain = at::randn({6});
  const auto same = [&](const at::Tensor& there, const at::Tensor& here) {
    EXPECT_EQ(there.strides(), here.strides());
    EXPECT_TRUE(at::equal(there.cpu(), here));
  };
  const auto there = x.to(device_);
  same(at::conv2d(there, weight.to(device_), {}, 1, 1), at::conv2d(x, weight, {}, 1, 1));
  same(at::group_norm(there, 3, gain.to(device_), gain.to(device_)),
       at::group_norm(x, 3, gain, gain));
  same(at::layer_norm(there, {8}), at::layer_norm(x, {8}));
  same(at::upsample_nearest2d(there, {16, 16}), at::upsample_nearest2d(x, {16, 16}));
  same(at::cat({there, there.transpose(2, 3)}, 1), at::cat({x, x.transpose(2, 3)}, 1));
  same(there.transpose(1, 3).mul(3), x.transpose(1, 3).mul(3));
  same(at::arange(5, there.options()), at::arange(5, x.options()));
  auto changed = there.clone(), expected = x.clone();
  changed.narrow(1, 1, 2).mul_(2).add_(1);
  expected.narrow(1, 1, 2).mul_(2).add_(1);
  same(changed, expected);
}

struct AttentionCase {
  const char* name;
  std::int64_t head_dim;
  bool causal;
  std::optional<at::ScalarType> mask;
  std::vector<std::int64_t> mask_sizes;
};

// As CUDA's: with masks and for heads of any width, the scores are never on the device.
TEST_F(SimulatedDevice, AttentionHasNoMatrixOfScores) {
  constexpr std::int64_t kBatch = 2, kHeads = 3, kLength = 96, kScores = kLength * kLength;
  const std::vector<AttentionCase> cases = {
      {"plain", 16, false, std::nullopt, {}},
      {"causal", 16, true, std::nullopt, {}},
      {"bias of every head", 16, false, at::kFloat, {1, kHeads, kLength, kLength}},
      {"bias of all heads", 16, false, at::kFloat, {kLength, kLength}},
      {"mask", 16, false, at::kBool, {kBatch, 1, 1, kLength}},
      {"wide head", 512, false, std::nullopt, {}}};
  for (const auto& dtype : {at::kFloat, at::kBFloat16}) {
    for (const auto& c : cases) {
      const auto options = at::TensorOptions().dtype(dtype);
      const auto q = at::randn({kBatch, kLength, kHeads, c.head_dim}, options).transpose(1, 2);
      const auto k = at::randn({kBatch, kHeads, kLength, c.head_dim}, options),
                 v = at::randn_like(k);
      std::optional<at::Tensor> mask, device_mask;
      if (c.mask) {
        mask = at::randn(c.mask_sizes);
        mask = *c.mask == at::kBool ? mask->gt(0) : mask->to(dtype);
        device_mask = mask->to(device_);
      }
      const auto expected = at::scaled_dot_product_attention(q, k, v, mask, 0.0, c.causal, 0.7);
      const auto device_q = q.to(device_), device_k = k.to(device_), device_v = v.to(device_);
      const auto before = device_bytes();
      reset_device_peak(device_);
      const auto found = at::scaled_dot_product_attention(device_q, device_k, device_v, device_mask,
                                                          0.0, c.causal, 0.7);
      const auto extra = device_peak(device_).peak_allocated - before;
      EXPECT_TRUE(at::equal(found.cpu(), expected)) << c.name;
      EXPECT_EQ(found.strides(), expected.strides()) << c.name;
      // Besides the result at most the mask as numbers.
      const auto mask_bytes = c.mask == at::kBool ? mask->numel() * found.element_size() : 0;
      EXPECT_LE(extra, static_cast<std::int64_t>(found.nbytes()) + mask_bytes) << c.name;
      EXPECT_LT(testing::largest_device_allocation(),
                std::max<std::int64_t>(kBatch * kHeads * kScores * found.element_size(),
                                       static_cast<std::int64_t>(found.nbytes()) + 1));
    }
  }
}

TEST_F(SimulatedDevice, PinnedMemoryIsCountedAndReleased) {
  auto pinned = at::ones({100}).pin_memory();
  EXPECT_TRUE(pinned.is_pinned());
  EXPECT_FALSE(at::ones({100}).is_pinned());
  EXPECT_EQ(testing::pinned_bytes_in_use(), 400);
  pinned.reset();
  EXPECT_EQ(testing::pinned_bytes_in_use(), 0);
  EXPECT_EQ(testing::pinned_bytes_cached(), 400);
  release_device_memory(device_);
  EXPECT_EQ(testing::pinned_bytes_cached(), 0);
}

// A copy that need not block reads the buffer when it runs, so writing to it too early shows.
TEST_F(SimulatedDevice, CopiesWithoutBlockingComeLate) {
  auto pinned = at::ones({4}).pin_memory();
  const auto x = pinned.to(device_, /*non_blocking=*/true);
  pinned.fill_(2);
  synchronize_device(device_);
  EXPECT_EQ(x.sum().item<float>(), 8);
  const auto y = pinned.to(device_, /*non_blocking=*/true);
  EXPECT_EQ(y.sum().item<float>(), 8);  // kernels on the device see what was queued before them
  pinned.fill_(3);
  EXPECT_EQ(y.sum().item<float>(), 8);
}

}  // namespace
}  // namespace steadyflux
