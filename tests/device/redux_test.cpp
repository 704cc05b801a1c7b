// Redux on a device that is not the CPU: whatever the budget, the picture is the same to the bit,
// and the device holds what the plan said.
#include <gtest/gtest.h>

#include <iostream>
#include <set>

#include "device/plan_runs.h"
#include "golden_file.h"
#include "random_model.h"

namespace steadyflux {
namespace {

using testing::Accuracy;
using testing::expect_at_any_budget;
using testing::measure_peaks;
using testing::pictures;
using testing::pictures_alone;
using testing::plan_workload;
using testing::RandomModel;
using testing::RandomModelShape;
using testing::set_device_limit;
using testing::simulated_device;
using testing::small_request;

ReduxImage image(const char* name, std::uint8_t shade, double scale = 1.0) {
  Image pixels{40, 30, std::vector<std::uint8_t>(40 * 30 * 3, shade)};
  for (std::size_t i = 0; i < pixels.rgb.size(); i += 7) pixels.rgb[i] = 200;
  return {.image = name, .scale = scale, .load = [pixels] { return pixels; }, .load_bytes = 3600};
}

// One picture, two of them, one that has no prompt, and one with a negative prompt.
std::vector<Request> requests() {
  std::vector<Request> all(4, small_request());
  for (auto& request : all) request.num_images = request.num_inference_steps = 1;
  all[0].redux_images = {image("a", 10)};
  all[1].redux_images = {image("a", 10, 0.5), image("b", 90)};
  all[2].redux_images = {image("b", 90)};
  all[2].has_prompt = false;
  all[3].redux_images = {image("a", 10)};
  all[3].negative_prompt = "rain";
  all[3].true_cfg_scale = 2;
  return all;
}

class ReduxOnDevice : public ::testing::TestWithParam<bool> {
 protected:
  ReduxOnDevice() : device_(GetParam() ? simulated_device() : c10::Device(c10::kCPU)) {}
  ~ReduxOnDevice() override { set_device_limit(testing::kNoLimit); }

  const c10::InferenceMode inference_mode_;
  const c10::Device device_;
};

TEST_P(ReduxOnDevice, AnyBudgetGivesTheSamePicture) {
  RandomModelShape shape;
  shape.siglip_dim = 128;
  const RandomModel random(shape);
  const auto model = random.folder();
  const auto all = requests();
  const auto work = plan_workload(model, all);
  EXPECT_EQ(work.redux_tokens, 36);
  const auto expected = pictures_alone(model, device_, all);
  EXPECT_NE(expected[0], expected[1]);
  expect_at_any_budget(expected, model, device_, all, /*tries=*/5);
}

INSTANTIATE_TEST_SUITE_P(Devices, ReduxOnDevice, ::testing::Bool());

// As PlanPeaks has it. SigLIP is wide here, so that it is what the phase takes most for.
TEST(ReduxPeaks, AreWhatTheDeviceHolds) {
  const c10::InferenceMode inference_mode;
  RandomModelShape shape;
  shape.heads = 6;
  shape.head_dim = 128;
  shape.axes = {16, 56, 56};
  shape.t5_dim = 128;
  shape.t5_ff = 128;
  shape.t5_layers = 1;
  shape.vae_channels = {32, 32, 64, 64};
  shape.siglip_dim = 768;
  const RandomModel random(shape);
  Accuracy accuracy;
  std::set<std::int64_t> groups;
  for (const std::size_t images : {1, 3}) {
    auto request = small_request();
    request.width = request.height = 96;
    request.num_images = 1;
    request.max_sequence_length = 64;
    const char* names[] = {"a", "b", "c"};
    for (std::size_t i = 0; i < images; ++i) request.redux_images.push_back(image(names[i], 50));
    measure_peaks(random.folder(), {request}, 2, accuracy, groups);
  }
  std::cout << "predicted against measured: " << 100 * accuracy.lowest << " % to "
            << 100 * accuracy.highest << " %\n";
}

}  // namespace
}  // namespace steadyflux
