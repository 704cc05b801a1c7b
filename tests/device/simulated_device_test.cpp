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
