// Streams and threads on the simulated device: forgotten waits are noticed, in the result and by
// name, right ones are not, and two threads may work at once.
#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <c10/core/Event.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "pipeline/device.h"
#include "simulated_device/simulated_device.h"

namespace steadyflux {
namespace {

using testing::simulated_device;

class SimulatedStreams : public ::testing::Test {
 protected:
  SimulatedStreams() {
    testing::set_race_checks(true);
    synchronize_device(device_);
  }
  ~SimulatedStreams() override {
    testing::set_race_checks(true);
    synchronize_device(device_);
  }

  c10::Stream new_stream() const {
    return c10::impl::VirtualGuardImpl(device_.type()).getNewStream(device_, 0);
  }
  c10::Stream current() const { return at::accelerator::getCurrentStream(device_.index()); }
  c10::Event event() const { return c10::Event(device_.type()); }
  at::Tensor on_device(std::int64_t count) const {
    return at::empty({count}, at::TensorOptions().device(device_));
  }
  static at::Tensor pinned(std::int64_t count, float value) {
    return at::full({count}, value).pin_memory();
  }
  // On another stream, without blocking.
  static void copy_on(const c10::Stream& stream, const at::Tensor& to, const at::Tensor& from) {
    const c10::StreamGuard guard(stream);
    to.copy_(from, /*non_blocking=*/true);
  }
  static void expect_race(const std::function<void()>& run) {
    try {
      run();
      ADD_FAILURE() << "no race was noticed";
    } catch (const c10::Error& e) {
      EXPECT_NE(std::string(e.what()).find("race:"), std::string::npos) << e.what();
    }
  }

  const c10::InferenceMode inference_mode_;
  const c10::Device device_ = simulated_device();
  const c10::Stream transfer_ = new_stream();
};

TEST_F(SimulatedStreams, AreDistinctAndOfTheirThread) {
  EXPECT_NE(transfer_, current());
  EXPECT_NE(transfer_, new_stream());
  const auto before = current();
  {
    const c10::StreamGuard guard(transfer_);
    EXPECT_EQ(current(), transfer_);
    std::thread([&] { EXPECT_EQ(current(), before); }).join();
  }
  EXPECT_EQ(current(), before);
}

TEST_F(SimulatedStreams, WithoutAWaitTheOldBytesAreRead) {
  testing::set_race_checks(false);
  const auto x = on_device(4).fill_(1);
  const auto source = pinned(4, 2);
  copy_on(transfer_, x, source);
  EXPECT_EQ(x.sum().item<float>(), 4);

  auto copied = event();
  copied.record(transfer_);
  copied.block(current());
  EXPECT_EQ(x.sum().item<float>(), 8);
}

TEST_F(SimulatedStreams, ReadingWithoutAWaitIsARace) {
  const auto x = on_device(4);
  const auto source = pinned(4, 2);
  auto ready = event(), copied = event();
  ready.record(current());
  ready.block(transfer_);
  copy_on(transfer_, x, source);
  copied.record(transfer_);
  expect_race([&] { x.sum(); });
  copied.block(current());
  EXPECT_EQ(x.sum().item<float>(), 8);
}

TEST_F(SimulatedStreams, WaitingOnTheHostWillDoAsWell) {
  for (int way = 0; way < 4; ++way) {
    const auto x = on_device(4);
    synchronize_device(device_);
    copy_on(transfer_, x, pinned(4, 3));
    auto copied = event();
    copied.record(transfer_);
    if (way == 0) copied.synchronize();
    if (way == 1) transfer_.synchronize();
    if (way == 2) synchronize_device(device_);
    if (way == 3) {
      EXPECT_FALSE(copied.query());
      int asked = 1;
      while (!copied.query()) ++asked;
      EXPECT_LT(asked, 10);
    }
    EXPECT_TRUE(copied.query());
    EXPECT_TRUE(transfer_.query());
    EXPECT_EQ(x.sum().item<float>(), 12);
  }
}

TEST_F(SimulatedStreams, OverwritingWhatAKernelMayStillReadIsARace) {
  const auto x = on_device(4).fill_(1);
  const auto source = pinned(4, 2);
  auto used = event();
  used.record(current());  // before the kernel
  const auto sum = x.sum();
  used.block(transfer_);
  expect_race([&] { copy_on(transfer_, x, source); });

  used.record(current());
  used.block(transfer_);
  EXPECT_NO_THROW(copy_on(transfer_, x, source));
  EXPECT_EQ(sum.item<float>(), 4);
}

TEST_F(SimulatedStreams, NewMemoryBelongsToTheStreamItWasAllocatedOn) {
  const auto y = on_device(4).fill_(0);  // its stream is at work
  const auto x = on_device(4);
  const auto source = pinned(4, 2);
  expect_race([&] { copy_on(transfer_, x, source); });

  // Given back while another stream may use it: seen at the next operation.
  const auto give_up = [&](bool recorded) {
    at::Tensor z = on_device(4);
    auto ready = event();
    ready.record(current());
    ready.block(transfer_);
    copy_on(transfer_, z, source);
    if (recorded) z.record_stream(transfer_);
    z.reset();
    y.add_(1);
  };
  expect_race([&] { give_up(false); });
  EXPECT_NO_THROW(give_up(true));
}

TEST_F(SimulatedStreams, WaitsReachThroughOtherStreams) {
  const auto third = new_stream();
  const auto x = on_device(4).fill_(1);
  synchronize_device(device_);
  copy_on(transfer_, x, pinned(4, 5));
  auto first = event(), second = event();
  first.record(transfer_);
  first.block(third);
  second.record(third);
  second.block(current());
  EXPECT_EQ(x.sum().item<float>(), 20);
}

TEST_F(SimulatedStreams, CopiesToPinnedMemoryComeLateToo) {
  const auto x = on_device(4).fill_(7);
  auto target = pinned(4, 1);
  auto filled = event(), copied = event();
  filled.record(current());
  filled.block(transfer_);
  copy_on(transfer_, target, x);
  copied.record(transfer_);
  EXPECT_EQ(target.sum().item<float>(), 4);
  expect_race([&] { x.fill_(0); });
  copied.synchronize();
  EXPECT_EQ(target.sum().item<float>(), 28);
  EXPECT_NO_THROW(x.fill_(0));
}

// What was put off needs neither of its tensors, and freed memory is not counted meanwhile.
TEST_F(SimulatedStreams, TensorsMayGoBeforeTheirCopyIsCarriedOut) {
  const auto before = testing::device_bytes(), pinned_before = testing::pinned_bytes_in_use();
  auto target = pinned(1000, 0);
  {
    const auto x = pinned(1000, 3).to(device_, /*non_blocking=*/true);
    target.copy_(x, /*non_blocking=*/true);
  }
  EXPECT_EQ(testing::device_bytes(), before);
  EXPECT_EQ(testing::pinned_bytes_in_use(), pinned_before + 4000);
  synchronize_device(device_);
  EXPECT_EQ(target.sum().item<float>(), 3000);
}

// A loader fills two buffers in turn on its own stream, ahead of the stream that computes, while a
// third thread reads the statistics.
TEST_F(SimulatedStreams, ALoaderAndASamplerBesideTheKernels) {
  constexpr int kRounds = 300;
  constexpr std::int64_t kCount = 500;
  std::array<at::Tensor, 2> buffers{on_device(kCount), on_device(kCount)};
  std::array<c10::Event, 2> loaded{event(), event()}, used{event(), event()};
  for (auto& e : used) e.record(current());
  std::mutex mutex;
  std::condition_variable changed;
  int given = 0, taken = 0;

  std::atomic<bool> stop = false;
  std::thread sampler([&] {
    while (!stop) {
      const auto stats = at::accelerator::getDeviceStats(device_.index());
      EXPECT_LE(stats.allocated_bytes[0].current, stats.reserved_bytes[0].current);
      EXPECT_GE(testing::pinned_bytes_in_use(), 0);
      std::this_thread::yield();
    }
  });
  std::thread loader([&] {
    const c10::InferenceMode inference_mode;
    const c10::StreamGuard guard(transfer_);
    std::array<at::Tensor, 2> staging{pinned(kCount, 0), pinned(kCount, 0)};
    for (int i = 0; i < kRounds; ++i) {
      const auto slot = static_cast<std::size_t>(i % 2);
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return taken + 2 > i; });
      used[slot].block(transfer_);
      if (i >= 2) loaded[slot].synchronize();  // the staging buffer is read
      staging[slot].fill_(static_cast<float>(i));
      buffers[slot].copy_(staging[slot], /*non_blocking=*/true);
      loaded[slot].record(transfer_);
      ++given;
      changed.notify_all();
    }
  });
  int wrong = 0;
  for (int i = 0; i < kRounds; ++i) {
    const auto slot = static_cast<std::size_t>(i % 2);
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return given > i; });
      loaded[slot].block(current());
    }
    const auto doubled = buffers[slot] * 2;
    {
      const std::lock_guard lock(mutex);
      used[slot].record(current());
      ++taken;
      changed.notify_all();
    }
    wrong += !at::equal(doubled.cpu(), at::full({kCount}, 2 * static_cast<float>(i)));
  }
  loader.join();
  stop = true;
  sampler.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace steadyflux
