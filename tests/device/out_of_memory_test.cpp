// A device that runs out of memory, at any allocation of a run: always the one exception that the
// program turns into exit code 4, all memory free afterwards, and the next run as if nothing was.
#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <iostream>

#include "device/run_phases.h"

namespace steadyflux {
namespace {

using testing::device_allocations;
using testing::device_bytes;
using testing::fail_at_allocation;
using testing::golden_model;
using testing::kNoLimit;
using testing::pinned_bytes_in_use;
using testing::run_phases;
using testing::set_device_limit;
using testing::simulated_device;

Request tiny_request() {
  return {.prompt = "A red apple",
          .width = 16,
          .height = 16,
          .num_inference_steps = 1,
          .seed = 3,
          .max_sequence_length = 8};
}

class OutOfMemory : public ::testing::TestWithParam<const char*> {
 protected:
  ~OutOfMemory() override {
    set_device_limit(kNoLimit);
    fail_at_allocation(0);
  }

  std::vector<std::uint8_t> picture() const {
    return run_phases(model_, simulated_device(), at::kBFloat16, tiny_request()).images.at(0).rgb;
  }
  static void expect_all_free() {
    EXPECT_EQ(device_bytes(), 0);
    EXPECT_EQ(pinned_bytes_in_use(), 0);
  }

  const ModelFolder model_ = golden_model(GetParam());
};

TEST_P(OutOfMemory, AtAnyAllocation) {
  fail_at_allocation(0);
  const auto expected = picture();
  const auto total = device_allocations();
  ASSERT_GT(total, 100);
  // The first ones, then ever sparser: later steps repeat what earlier ones do. And the last.
  std::int64_t tried = 0;
  for (std::int64_t n = 1; n <= total; n = n == total ? n + 1 : std::min(total, n + 1 + n / 16)) {
    fail_at_allocation(n);
    EXPECT_THROW(picture(), c10::OutOfMemoryError) << "at allocation " << n << " of " << total;
    expect_all_free();
    ++tried;
  }
  std::cout << tried << " of " << total << " allocations tried\n";
  fail_at_allocation(0);
  EXPECT_EQ(picture(), expected);
  expect_all_free();
}

TEST_P(OutOfMemory, ThePeakIsJustEnough) {
  const auto device = simulated_device();
  reset_device_peak(device);
  const auto expected = picture();
  const auto peak = device_peak(device).peak_allocated;

  set_device_limit(peak - 1);
  EXPECT_THROW(picture(), c10::OutOfMemoryError);
  expect_all_free();
  release_device_memory(device);
  reset_device_peak(device);
  set_device_limit(peak);
  EXPECT_EQ(picture(), expected);
  EXPECT_LE(device_peak(device).peak_reserved, peak);
}

INSTANTIATE_TEST_SUITE_P(Goldens, OutOfMemory, ::testing::Values("a", "b"));

}  // namespace
}  // namespace steadyflux
