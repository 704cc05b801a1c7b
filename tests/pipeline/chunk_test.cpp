// Which steps the strength of image to image leaves out, and what pictures have in common.
#include "pipeline/chunk.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <vector>

#include "pipeline/picture_sigmas.h"
#include "pipeline/workload.h"
#include "scheduler/flow_match_euler.h"

namespace steadyflux {
namespace {

Request request_with(std::int64_t steps, double strength) {
  Request request{.prompt = "x", .width = 48, .height = 32, .num_inference_steps = steps};
  auto init = std::make_shared<InitImage>();
  init->image = "a.png";
  init->strength = strength;
  request.init_image = init;
  return request;
}

FluxModel small_model() {
  return FluxModel::open(std::filesystem::path(STEADYFLUX_SOURCE_DIR) / "tests/goldens/b/model");
}

TEST(SkippedSteps, NoneFromNoiseAlone) {
  EXPECT_EQ(skipped_steps({.prompt = "x", .num_inference_steps = 28}), 0);
}

// int(max(n - min(n * strength, n), 0)), diffusers' get_timesteps: numbers it gave, among them
// those where a product is not what it is on paper (10 * 0.7 is 7, 100 * 0.29 a little below 29).
TEST(SkippedSteps, AreThoseOfDiffusers) {
  struct Case {
    std::int64_t steps;
    double strength;
    std::int64_t skipped;
  };
  for (const auto& [steps, strength, skipped] : std::vector<Case>{
           {5, 0.6, 2},
           {4, 0.3, 2},
           {10, 0.7, 3},
           {10, 0.3, 7},
           {28, 0.6, 11},
           {50, 0.95, 2},
           {100, 0.29, 71},
           {100, 0.57, 43},
           {7, 0.1, 6},
           {1, 0.5, 0},
           {1, 1.0, 0},
           {28, 1.0, 0},
           {3, 0.3333333333333333, 2},
           {1000, 0.001, 999},
           {20, 0.35, 13},
       }) {
    EXPECT_EQ(skipped_steps(request_with(steps, strength)), skipped) << steps << " " << strength;
  }
}

TEST(SkippedSteps, LeaveOneAtLeast) {
  for (const double strength : {1e-3, 1e-12, 1e-17, 1e-300}) {
    for (const std::int64_t steps : {1, 4, 1000}) {
      EXPECT_LT(skipped_steps(request_with(steps, strength)), steps) << strength;
    }
  }
}

TEST(SigmasToDo, AreTheLastOfTheSchedule) {
  const auto model = small_model();
  const auto request = request_with(5, 0.6);
  const auto all = make_schedule(model.scheduler, 5, image_seq_len(model, request)).sigmas;
  EXPECT_EQ(sigmas_to_do(model, request), std::vector<float>(all.begin() + 2, all.end()));
  EXPECT_EQ(sigmas_to_do(model, request_with(5, 1)), all);
}

TEST(Chunk, PicturesOfAnotherStrengthHaveATableOfTheirOwn) {
  const auto model = small_model();
  const std::vector<Request> requests = {
      request_with(5, 0.6),
      request_with(5, 0.55),
      request_with(5, 0.3),
      request_with(5, 1),
      {.prompt = "x", .width = 48, .height = 32, .num_inference_steps = 5}};
  const auto chunk = make_chunk(model, requests);
  EXPECT_EQ(chunk.prompts.size(), 1u);
  ASSERT_EQ(chunk.tables.size(), 3u);  // 3, 2 and 5 steps
  EXPECT_EQ(chunk.pictures[0].table, chunk.pictures[1].table);
  EXPECT_EQ(chunk.pictures[3].table, chunk.pictures[4].table);
  EXPECT_EQ(chunk.tables[0].steps(), 3);
  EXPECT_EQ(chunk.total_steps(), 3 + 3 + 2 + 5 + 5);
}

TEST(Chunk, ATextForT5ThatIsThePromptIsNoTextOfItsOwn) {
  const auto model = small_model();
  std::vector<Request> requests(4, {.prompt = "x", .width = 48, .height = 32});
  requests[1].prompt_2 = "x";
  requests[2].prompt_2 = "y";
  requests[3].prompt = "y";
  requests[3].prompt_2 = "x";
  const auto chunk = make_chunk(model, requests);
  ASSERT_EQ(chunk.prompts.size(), 3u);
  EXPECT_EQ(chunk.pictures[0].prompt, chunk.pictures[1].prompt);
  EXPECT_EQ(chunk.prompts[0].t5_text(), "x");
  EXPECT_EQ(chunk.prompts[1].text, "x");
  EXPECT_EQ(chunk.prompts[1].t5_text(), "y");
  EXPECT_EQ(chunk.tables.size(), 3u);
}

TEST(Chunk, NegativePromptsAreSharedAndMayBePrompts) {
  const auto model = small_model();
  std::vector<Request> requests(4, {.prompt = "x", .width = 48, .height = 32, .num_images = 2});
  requests[0].negative_prompt = "dark";
  requests[0].true_cfg_scale = 3;
  requests[1] = requests[0];
  requests[1].true_cfg_scale = 5;  // nothing that embeddings and modulations depend on
  requests[2] = requests[0];
  requests[2].prompt = "dark";
  requests[2].negative_prompt = "x";
  requests[3].negative_prompt = "rain";  // without a scale: no effect
  const auto chunk = make_chunk(model, requests);
  EXPECT_EQ(chunk.prompts.size(), 2u);
  EXPECT_EQ(chunk.tables.size(), 2u);
  const auto& first = chunk.pictures[0];
  ASSERT_TRUE(first.negative && chunk.pictures[4].negative);
  EXPECT_EQ(first.negative->prompt, chunk.pictures[4].prompt);
  EXPECT_EQ(first.negative->table, chunk.pictures[4].table);
  EXPECT_EQ(chunk.pictures[4].negative->table, first.table);
  EXPECT_EQ(first.texts().size(), 2u);
  EXPECT_FALSE(chunk.pictures[6].negative);
  EXPECT_EQ(chunk.pictures[6].texts().size(), 1u);
  EXPECT_EQ(make_workload(chunk, {}, "auto", 1).num_guided, 6);
}

TEST(Chunk, NegativePromptsMayHaveAnotherTextForT5) {
  const auto model = small_model();
  std::vector<Request> requests(2, {.prompt = "x", .width = 48, .height = 32});
  for (auto& request : requests) {
    request.negative_prompt = "";
    request.true_cfg_scale = 1.5;
  }
  requests[1].negative_prompt_2 = "dark";
  const auto chunk = make_chunk(model, requests);
  ASSERT_EQ(chunk.prompts.size(), 3u);
  EXPECT_EQ(chunk.prompts[1].t5_text(), "");
  EXPECT_EQ(chunk.prompts[2].t5_text(), "dark");
  EXPECT_NE(chunk.pictures[0].negative->table, chunk.pictures[1].negative->table);
}

TEST(MakeWorkload, CountsPicturesToEncodeAndMasks) {
  const auto model = small_model();
  std::vector<Request> requests = {request_with(5, 0.6), request_with(5, 0.6), {.prompt = "x"}};
  requests[0].num_images = 3;
  auto masked = std::make_shared<InitImage>(*requests[1].init_image);
  masked->mask = "mask.png";
  masked->load_bytes = 12345;
  requests[1].init_image = masked;
  const auto work = make_workload(make_chunk(model, requests), {}, "auto", 1);
  EXPECT_EQ(work.num_init_images, 4);
  EXPECT_EQ(work.num_masks, 1);
  EXPECT_EQ(work.image_load_bytes, 12345);
}

}  // namespace
}  // namespace steadyflux
