// Passes of the transformer that are recorded and replayed, on a device that refuses what cannot be
// recorded and forgets what was computed meanwhile.
#include "transformer/recorded_forward.h"

#include <gtest/gtest.h>

#include "checkpoints/open_model.h"
#include "device/run_phases.h"
#include "golden_file.h"
#include "nn/load.h"

namespace steadyflux {
namespace {

using testing::golden_model;
using testing::graph_replays;
using testing::kPlenty;
using testing::kRuns;
using testing::run_phases;
using testing::simulated_device;
using testing::small_request;
using testing::tensor_budget;
using testing::workload_of;

std::vector<at::Tensor> latents_of(const FluxModel& model, at::ScalarType dtype,
                                   const std::vector<Request>& requests, const Plan& plan) {
  return run_phases(model, simulated_device(), dtype, requests, plan).denoising.latents;
}

Plan plan_of(const FluxModel& model, at::ScalarType dtype, const std::vector<Request>& requests,
             std::int64_t vram, bool cuda_graphs) {
  return make_plan(model, workload_of(model, requests, dtype),
                   tensor_budget(simulated_device(), vram, kPlenty), {.cuda_graphs = cuda_graphs});
}

void expect_equal(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(at::equal(a[i], b[i])) << "picture " << i;
}

class RecordedPasses : public ::testing::TestWithParam<const char*> {};

TEST_P(RecordedPasses, GiveTheSameLatents) {
  const auto model = golden_model(GetParam());
  auto request = small_request();
  request.num_inference_steps = 4;
  for (const auto& run : kRuns) {
    auto plan = plan_of(model, run.dtype, {request}, kPlenty, true);
    ASSERT_TRUE(plan.records_passes);
    for (const std::int64_t group : {1, 2}) {
      plan.denoise_group = group;
      auto plain = plan;
      plain.records_passes = false;
      const auto before = graph_replays();
      const auto expected = latents_of(model, run.dtype, {request}, plain);
      EXPECT_EQ(graph_replays(), before);
      expect_equal(latents_of(model, run.dtype, {request}, plan), expected);
      // Two pictures of four steps, each for itself or both at once; all but the first are replays.
      EXPECT_EQ(graph_replays() - before, 8 / group - 1);
    }
  }
}

TEST_P(RecordedPasses, BeginAnewWithOtherShapes) {
  const auto model = golden_model(GetParam());
  auto wide = small_request();
  wide.num_inference_steps = 3;
  wide.num_images = 1;
  auto tall = wide;
  std::swap(tall.width, tall.height);
  tall.height += 16;
  auto plan = plan_of(model, at::kFloat, {wide, tall}, kPlenty, true);
  plan.denoise_group = 1;
  auto plain = plan;
  plain.records_passes = false;
  const auto expected = latents_of(model, at::kFloat, {wide, tall}, plain);
  const auto before = graph_replays();
  expect_equal(latents_of(model, at::kFloat, {wide, tall}, plan), expected);
  EXPECT_EQ(graph_replays() - before, 4);
}

INSTANTIATE_TEST_SUITE_P(Goldens, RecordedPasses, ::testing::Values("a", "b"));

TEST(RecordedPasses, AreForWeightsThatStay) {
  const auto model = golden_model("a");
  auto request = small_request();
  const auto plan = [&](std::int64_t vram, bool on) {
    return plan_of(model, at::kBFloat16, {request}, vram, on);
  };
  const auto roomy = plan(kPlenty, true), without = plan(kPlenty, false);
  EXPECT_TRUE(roomy.records_passes);
  EXPECT_FALSE(without.records_passes);
  EXPECT_GT(roomy.phase("denoise").device_peak_bytes, without.phase("denoise").device_peak_bytes);
  const auto need = roomy.phase("denoise").device_peak_bytes;
  EXPECT_TRUE(plan(need, true).records_passes);
  EXPECT_FALSE(plan(need - 1, true).records_passes);  // something is streamed
  EXPECT_FALSE(make_plan(model, workload_of(model, {request}, at::kBFloat16),
                         tensor_budget(c10::Device(c10::kCPU), 0, kPlenty), {.cuda_graphs = true})
                   .records_passes);
  request.sampling.cache_threshold = 0.1;
  EXPECT_FALSE(plan(kPlenty, true).records_passes);
}

// Weights that are fetched in the midst of a pass.
class FetchedWeights final : public WeightProvider {
 protected:
  void bind(std::size_t) override { at::zeros({1}).to(simulated_device()); }
  void release(std::size_t) noexcept override {}
};

TEST(RecordedForward, GoesOnWithoutWhatCannotBeRecorded) {
  const c10::InferenceMode inference_mode;
  const auto model = golden_model("a");
  const auto device = simulated_device();
  FluxTransformer transformer(model.transformer);
  LoadOptions options;
  options.dtype = at::kFloat;
  options.device = device;
  load_slots(ComponentWeights::open(model.paths.transformer, Component::kTransformer),
             transformer.slots(), options);
  const auto& config = model.transformer;
  const auto on_device = [&](at::IntArrayRef sizes) { return at::randn(sizes).to(device); };
  const FluxTransformer::Input input{
      on_device({1, 6, config.in_channels}), on_device({1, 4, config.joint_attention_dim}),
      on_device({1, transformer.modulation_width()}),
      make_rotary_embedding(make_position_ids(4, {2, 3}).to(device), config.axes_dims_rope)};
  ASSERT_TRUE(RecordedForward::is_possible(device));
  EXPECT_FALSE(RecordedForward::is_possible(c10::Device(c10::kCPU)));

  RecordedForward recorded(transformer, device);
  BoundWeights bound;
  FetchedWeights fetched;
  const auto expected = recorded.forward({&input, 1}, bound).front();
  EXPECT_TRUE(at::equal(recorded.forward({&input, 1}, fetched).front(), expected));
  ASSERT_TRUE(recorded.problem());
  EXPECT_NE(recorded.problem()->find("not permitted"), std::string::npos);
  EXPECT_TRUE(at::equal(recorded.forward({&input, 1}, bound).front(), expected));
}

}  // namespace
}  // namespace steadyflux
