// Pictures that go in (image to image, inpainting, Kontext, Fill, Depth and Canny) on a device that
// is not the CPU: whatever the budget, the picture is the same to the bit, and the device holds
// what the plan said.
#include <gtest/gtest.h>

#include <iostream>
#include <set>

#include "device/plan_runs.h"
#include "golden_file.h"
#include "random_model.h"

namespace steadyflux {
namespace {

using testing::Accuracy;
using testing::begun_from;
using testing::expect_at_any_budget;
using testing::measure_peaks;
using testing::pictures;
using testing::pictures_alone;
using testing::RandomModel;
using testing::RandomModelShape;
using testing::run_phases;
using testing::set_device_limit;
using testing::shown;
using testing::simulated_device;
using testing::small_request;

using Role = ConditionImage::Role;

struct Kind {
  const char* name;
  std::int64_t in_channels;
  Role role;
};
constexpr Kind kKinds[] = {{"Reference", 64, Role::kReference},
                           {"Fill", 384, Role::kFill},
                           {"Control", 128, Role::kControl}};

void show(Request& request, Role role, std::int64_t width, std::int64_t height) {
  const bool own = role != Role::kReference;
  request.condition = shown(role, own ? request.width : width, own ? request.height : height);
}

// Of several sizes, two pictures of one; with room for it, one that begins from a picture and one
// from noise alone.
std::vector<Request> requests_of(Role role) {
  std::vector<Request> requests(2, small_request());
  show(requests[0], role, 64, 48);
  requests[1].width = 64;
  requests[1].num_images = 1;
  requests[1].prompt = "a lighthouse";
  show(requests[1], role, 32, 32);
  if (role != Role::kReference) return requests;
  requests.resize(4, small_request());
  requests[2].num_images = requests[3].num_images = 1;
  requests[2].num_inference_steps = 3;
  requests[2].init_image = begun_from(requests[2], 0.8);
  requests[3].prompt = "";
  return requests;
}

class Conditions : public ::testing::TestWithParam<std::tuple<Kind, bool>> {
 protected:
  Conditions()
      : device_(std::get<1>(GetParam()) ? simulated_device() : c10::Device(c10::kCPU)),
        random_(shape(std::get<0>(GetParam()))) {}
  ~Conditions() override { set_device_limit(testing::kNoLimit); }

  static RandomModelShape shape(const Kind& kind) {
    RandomModelShape shape;
    shape.in_channels = kind.in_channels;
    return shape;
  }

  const c10::InferenceMode inference_mode_;
  const c10::Device device_;
  const RandomModel random_;
};

TEST_P(Conditions, AnyBudgetGivesTheSamePicture) {
  const auto model = random_.folder();
  const auto requests = requests_of(std::get<0>(GetParam()).role);
  const auto expected = pictures_alone(model, device_, requests);
  expect_at_any_budget(expected, model, device_, requests, /*tries=*/12);
}

INSTANTIATE_TEST_SUITE_P(Kinds, Conditions,
                         ::testing::Combine(::testing::ValuesIn(kKinds), ::testing::Bool()),
                         [](const auto& param) {
                           return std::string(std::get<0>(param.param).name) +
                                  (std::get<1>(param.param) ? "Simulated" : "Cpu");
                         });

class ConditionPeaks : public ::testing::TestWithParam<Kind> {};

// As PlanPeaks has it.
TEST_P(ConditionPeaks, AreWhatTheDeviceHolds) {
  const c10::InferenceMode inference_mode;
  RandomModelShape shape;
  shape.heads = 6;
  shape.head_dim = 128;
  shape.axes = {16, 56, 56};
  shape.t5_dim = 512;
  shape.t5_ff = 1280;
  shape.vae_channels = {32, 32, 64, 64};
  shape.in_channels = GetParam().in_channels;
  const RandomModel random(shape);
  Accuracy accuracy;
  std::set<std::int64_t> groups;
  for (const std::int64_t side : {96, 192}) {
    auto request = small_request();
    request.width = request.height = side;
    request.num_images = 1;
    request.max_sequence_length = 64;
    show(request, GetParam().role, 288 - side, side);
    measure_peaks(random.folder(), {request}, 4, accuracy, groups);
  }
  std::cout << "predicted against measured: " << 100 * accuracy.lowest << " % to "
            << 100 * accuracy.highest << " %\n";
}

INSTANTIATE_TEST_SUITE_P(Kinds, ConditionPeaks, ::testing::ValuesIn(kKinds),
                         [](const auto& param) { return std::string(param.param.name); });

// Rounded otherwise in attention, see phases_test.cpp; that the CPU's pictures are right, the
// goldens of tests/cli/variant_cases.py say.
TEST_P(ConditionPeaks, TheDeviceGivesWhatTheCpuGives) {
  RandomModelShape shape;
  shape.in_channels = GetParam().in_channels;
  shape.dtype = at::kFloat;
  const RandomModel random(shape);
  const auto model = random.folder();
  const auto requests = requests_of(GetParam().role);
  const auto expected = run_phases(model, c10::Device(c10::kCPU), at::kFloat, requests);
  const auto found = run_phases(model, simulated_device(), at::kFloat, requests);
  ASSERT_EQ(found.denoising.latents.size(), expected.denoising.latents.size());
  for (std::size_t i = 0; i < expected.denoising.latents.size(); ++i) {
    EXPECT_TRUE(found.denoising.latents[i].device().is_cpu());
    testing::expect_close("latents", found.denoising.latents[i], expected.denoising.latents[i],
                          1e-4);
  }
}

}  // namespace
}  // namespace steadyflux
