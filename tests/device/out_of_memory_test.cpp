// A device that runs out of memory, at any allocation of a run: the program goes on by a leaner
// plan and the picture is the same; where there is no leaner plan, one exception that becomes exit
// code 4, all memory free afterwards, and the next run as if nothing was.
#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>

#include "device/run_phases.h"
#include "pipeline/generate.h"

namespace steadyflux {
namespace {

using testing::device_allocations;
using testing::device_bytes;
using testing::fail_at_allocation;
using testing::fail_from_allocation;
using testing::golden_model;
using testing::kNoLimit;
using testing::kPlenty;
using testing::pinned_bytes_in_use;
using testing::set_device_limit;
using testing::simulated_device;
using testing::tensor_budget;
using testing::workload_of;

Request tiny_request() {
  return {.prompt = "A red apple",
          .width = 16,
          .height = 16,
          .num_inference_steps = 2,
          .seed = 3,
          .max_sequence_length = 8};
}

struct Outcome {
  std::vector<std::vector<std::uint8_t>> pictures;
  std::int64_t warnings = 0;
  PassCounts passes = {};
  bool out_of_memory = false;
};

struct Listener : Observer {
  std::int64_t warnings = 0;  // that memory ran out
  PassCounts passes;
  void passes_made(std::size_t, std::int64_t, const PassCounts& made) override { passes += made; }
  void warning(const std::string& message) override {
    warnings += message.starts_with("out of memory") ? 1 : 0;
  }
};

class OutOfMemory : public ::testing::TestWithParam<const char*> {
 protected:
  ~OutOfMemory() override {
    set_device_limit(kNoLimit);
    fail_at_allocation(0);
  }

  Outcome run(const Request& request) const {
    Listener listener;
    return run(request, listener);
  }
  Outcome run(const Request& request, Listener& listener) const {
    const c10::InferenceMode inference_mode;
    const auto device = simulated_device();
    Outcome result;
    const std::vector<Request> requests{request};
    PhaseRunner runner({model_, device, at::kBFloat16, workload_of(model_, requests, at::kBFloat16),
                        tensor_budget(device, kPlenty, kPlenty)},
                       listener);
    try {
      const auto chunk = make_chunk(model_, requests);
      generate_pictures(model_, chunk, {}, begin_denoising(chunk, nullptr, model_, at::kBFloat16),
                        runner, [&](std::size_t, std::int64_t, Image image) {
                          result.pictures.push_back(std::move(image.rgb));
                        });
    } catch (const c10::OutOfMemoryError&) {
      result.out_of_memory = true;
    }
    result.warnings = listener.warnings;
    result.passes = listener.passes;
    return result;
  }
  // To the same picture, whichever allocation fails; `most`: how many are tried.
  void expect_it_goes_on(const Request& request, std::int64_t most) const;
  static void expect_all_free() {
    EXPECT_EQ(device_bytes(), 0);
    EXPECT_EQ(pinned_bytes_in_use(), 0);
  }

  const FluxModel model_ = golden_model(GetParam());
};

// STEADYFLUX_ALLOCATIONS: how many of them are tried, evenly; all if there are fewer.
std::int64_t allocations_to_try() {
  const char* text = std::getenv("STEADYFLUX_ALLOCATIONS");
  return text == nullptr ? 200 : std::atoll(text);
}

TEST_P(OutOfMemory, AtAnyAllocationTheRunGoesOn) {
  auto request = tiny_request();
  // One solver for each model: this one may fail in the midst of a step.
  if (std::string(GetParam()) == "b") request.sampling.scheduler = "heun";
  expect_it_goes_on(request, allocations_to_try());
}

// What step caching keeps outlives the plan: passes decide as they would have.
TEST_P(OutOfMemory, WithStepCachingAsWell) {
  auto request = tiny_request();
  request.num_inference_steps = 6;
  request.sampling.cache_threshold = 0.8;  // random weights change a picture much in each step
  if (std::string(GetParam()) == "b") request.sampling.scheduler = "heun";
  const auto expected = run(request);
  EXPECT_GT(expected.passes.computed, 1);
  EXPECT_GT(expected.passes.reused, 1);
  expect_it_goes_on(request, allocations_to_try() / 8);
}

void OutOfMemory::expect_it_goes_on(const Request& request, std::int64_t most) const {
  fail_at_allocation(0);
  const auto expected = run(request);
  const auto total = device_allocations();
  ASSERT_GT(total, 100);
  ASSERT_EQ(expected.pictures.size(), 1u);
  const auto tries = std::min(total, most);
  for (std::int64_t i = 0; i < tries; ++i) {
    const auto n = 1 + i * (total - 1) / std::max<std::int64_t>(tries - 1, 1);
    fail_at_allocation(n);
    const auto found = run(request);
    ASSERT_EQ(found.pictures, expected.pictures) << "at allocation " << n << " of " << total;
    ASSERT_FALSE(found.out_of_memory);
    ASSERT_EQ(found.warnings, 1) << "at allocation " << n;
    ASSERT_EQ(found.passes.reused, expected.passes.reused) << "at allocation " << n;
    expect_all_free();
  }
  std::cout << tries << " of " << total << " allocations tried\n";
}

TEST_P(OutOfMemory, ForGoodItEndsCleanly) {
  const auto request = tiny_request();
  fail_at_allocation(0);
  const auto expected = run(request);
  const auto total = device_allocations();
  const auto tries = std::min(total, allocations_to_try() / 8);
  for (std::int64_t i = 0; i < tries; ++i) {
    const auto n = 1 + i * (total - 1) / std::max<std::int64_t>(tries - 1, 1);
    fail_from_allocation(n);
    const auto found = run(request);
    ASSERT_TRUE(found.out_of_memory) << "at allocation " << n << " of " << total;
    ASSERT_TRUE(found.pictures.empty());
    fail_at_allocation(0);
    expect_all_free();
  }
  EXPECT_EQ(run(request).pictures, expected.pictures);
  expect_all_free();
}

// A card that has less than it said: the plan is made for more than there is.
TEST_P(OutOfMemory, LessThanThePlanBelieves) {
  auto request = tiny_request();
  request.num_images = 2;
  const auto expected = run(request);
  const auto device = simulated_device();
  const auto work = workload_of(model_, {request}, at::kBFloat16);
  const auto most = make_plan(model_, work, tensor_budget(device, kPlenty, kPlenty));
  PlanOptions options;
  options.leaner = 4;
  const auto least = make_plan(model_, work, tensor_budget(device, kPlenty, kPlenty), options);
  ASSERT_TRUE(least.leanest);
  ASSERT_LT(least.device_peak_bytes, most.device_peak_bytes);
  for (int i = 0; i < 8; ++i) {
    // The prediction may be 2 % short.
    const auto limit = least.device_peak_bytes * 51 / 50 +
                       (most.device_peak_bytes - least.device_peak_bytes) * i / 8;
    release_device_memory(device);
    set_device_limit(limit);
    const auto found = run(request);
    EXPECT_FALSE(found.out_of_memory) << limit;
    EXPECT_EQ(found.pictures, expected.pictures) << limit;
    set_device_limit(kNoLimit);
  }
  expect_all_free();
}

// Memory is gone for good once the first picture was denoised: it is decoded and given.
TEST_P(OutOfMemory, FinishedPicturesAreGiven) {
  auto request = tiny_request();
  const auto expected = run(request);
  request.num_images = 3;
  struct Saboteur : Listener {
    bool denoising = false;
    void phase_started(const std::string& name, std::int64_t) override {
      denoising = name == "denoise";
      if (name == "decode") fail_at_allocation(0);
    }
    void phase_progress(std::int64_t done) override {
      if (denoising && done == 2) fail_from_allocation(1);
    }
  } saboteur;
  const auto found = run(request, saboteur);
  EXPECT_TRUE(found.out_of_memory);
  EXPECT_EQ(found.pictures, expected.pictures);
  expect_all_free();
}

INSTANTIATE_TEST_SUITE_P(Goldens, OutOfMemory, ::testing::Values("a", "b"));

}  // namespace
}  // namespace steadyflux
