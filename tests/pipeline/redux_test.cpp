// Pictures behind prompts: what a chunk has in common, how tokens are joined, what is planned.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "config/model_config.h"
#include "memory/plan.h"
#include "pipeline/chunk.h"
#include "pipeline/phases.h"
#include "pipeline/workload.h"

namespace steadyflux {
namespace {

FluxModel model_with_redux() {
  FluxModel model;
  model.redux.emplace();
  return model;
}

ReduxImage image(const char* path, double scale = 1.0) {
  return {.image = path, .scale = scale, .load = {}, .load_bytes = 1000};
}

// Three pictures of one prompt and one of another.
std::vector<Request> requests() {
  std::vector<Request> all(5);
  for (auto& request : all) request.prompt = "x";
  all[0].redux_images = {image("a.png")};
  all[1].redux_images = {image("b.png", 0.5), image("a.png")};
  all[2].redux_images = {image("a.png")};
  all[2].has_prompt = false;
  all[2].prompt = "";
  all[3].num_images = 2;
  all[4] = all[0];
  return all;
}

TEST(ReduxChunk, EncodesEachTextAndPictureOnce) {
  const auto all = requests();
  const auto chunk = make_chunk(model_with_redux(), all);
  ASSERT_EQ(chunk.redux_images.size(), 2U);
  EXPECT_EQ(chunk.redux_images[0]->image, "a.png");
  EXPECT_EQ(chunk.redux_images[1]->image, "b.png");
  EXPECT_EQ(chunk.redux_tokens, 729);
  ASSERT_EQ(chunk.prompts.size(), 4U);
  EXPECT_EQ(chunk.texts(), std::vector<std::size_t>{0});
  for (const std::size_t prompt : {0, 1, 3}) EXPECT_EQ(chunk.first_with_text_of(prompt), 0U);
  EXPECT_EQ(chunk.first_with_text_of(2), 2U);
  const std::vector<ChunkReduxUse> expected = {{1, 0.5}, {0, 1.0}};
  EXPECT_EQ(chunk.prompts[1].redux, expected);
  EXPECT_TRUE(chunk.prompts[3].redux.empty());
  EXPECT_EQ(chunk.pictures.back().prompt, chunk.pictures.front().prompt);
}

TEST(ReduxWorkload, CountsTokensAndPictures) {
  const auto all = requests();
  const auto chunk = make_chunk(model_with_redux(), all);
  const auto work = make_workload(chunk, {}, "bf16", 1);
  EXPECT_EQ(work.num_prompts, 4);
  EXPECT_EQ(work.num_encoded, 1);
  EXPECT_EQ(work.num_redux_images, 2);
  EXPECT_EQ(work.redux_load_bytes, 1000);
  EXPECT_EQ(work.text_len(), 512 + 729);
}

// A sum of prompt and picture for each of the pictures, weighted, as diffusers has it.
TEST(JoinRedux, AddsUpWhatItIsGiven) {
  const auto all = requests();
  const auto chunk = make_chunk(model_with_redux(), all);
  const auto text = at::randn({1, 3, 2}), pooled = at::randn({1, 4});
  const auto a = at::randn({1, 2, 2}), b = at::randn({1, 2, 2});
  Encoded encoded{{4, {text, pooled}}, {a, b}};
  encoded.embeddings[2] = {at::zeros_like(text), at::zeros_like(pooled)};
  join_redux(chunk, encoded);
  const auto expect = [&](std::size_t prompt, const at::Tensor& embeds, const at::Tensor& vector) {
    EXPECT_TRUE(at::allclose(encoded.embeddings[prompt].prompt_embeds, embeds)) << prompt;
    EXPECT_TRUE(at::allclose(encoded.embeddings[prompt].pooled_prompt_embeds, vector)) << prompt;
  };
  expect(0, at::cat({text, a}, 1), pooled);
  expect(1, at::cat({text * 1.5, a + b * 0.5}, 1), pooled * 2);
  expect(2, at::cat({at::zeros_like(text), a}, 1), at::zeros_like(pooled));
  expect(3, text, pooled);
}

TEST(ReduxPlan, HasItsComponentsWhereTheyAreNeeded) {
  const auto model = model_with_redux();
  const Budget budget{.ram = std::int64_t{64} << 30, .ram_base = std::int64_t{200} << 20};
  Workload work;
  const auto plain = make_plan(model, work, budget);
  work.num_redux_images = 2;
  work.redux_tokens = model.redux->num_tokens();
  work.redux_load_bytes = 1000;
  const auto both = make_plan(model, work, budget);
  work.num_encoded = 0;
  const auto images_only = make_plan(model, work, budget);
  work.num_redux_images = 0;
  const auto none = make_plan(model, work, budget);

  const auto components = [](const Plan& plan) {
    std::vector<std::string> names;
    for (const auto& weights : plan.phase("encode").weights) names.push_back(weights.component);
    return names;
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(components(plain), (Names{"text_encoder", "text_encoder_2"}));
  EXPECT_EQ(components(both),
            (Names{"text_encoder", "text_encoder_2", "image_encoder", "image_embedder"}));
  EXPECT_EQ(components(images_only), (Names{"image_encoder", "image_embedder"}));
  EXPECT_EQ(none.phases.front().name, "modulate");
  EXPECT_GT(both.phase("denoise").host_activations, plain.phase("denoise").host_activations);
  // The parameters of SigLIP so400m without its head, and of what stands behind it, in bf16.
  EXPECT_EQ(both.disk_bytes - plain.disk_bytes, 2 * (412'987'248 + 64'503'808));
  for (const auto& phase : both.phases) EXPECT_TRUE(fits(phase, budget)) << phase.name;
  // It is opened after T5 is closed, and much smaller.
  EXPECT_LT(images_only.phase("encode").ram_peak_bytes, both.phase("encode").ram_peak_bytes);
}

// A picture whose file is large is read before anything is opened.
TEST(ReduxPlan, HasRoomForReading) {
  const auto model = model_with_redux();
  const Budget budget{.ram = std::int64_t{64} << 30};
  Workload work;
  work.num_encoded = 0;
  work.num_redux_images = 1;
  work.redux_tokens = model.redux->num_tokens();
  const auto small = make_plan(model, work, budget).phase("encode").ram_peak_bytes;
  work.redux_load_bytes = std::int64_t{4} << 30;
  const auto large = make_plan(model, work, budget).phase("encode").ram_peak_bytes;
  EXPECT_LT(small, work.redux_load_bytes);
  EXPECT_GE(large, work.redux_load_bytes);
}

TEST(NoPrompt, IsZerosOfItsLength) {
  const FluxModel model;
  const auto embeddings = no_prompt(model, {.text = "", .max_sequence_length = 7}, at::kBFloat16);
  EXPECT_EQ(embeddings.prompt_embeds.sizes(), (std::vector<std::int64_t>{1, 7, 4096}));
  EXPECT_EQ(embeddings.pooled_prompt_embeds.sizes(), (std::vector<std::int64_t>{1, 768}));
  EXPECT_EQ(embeddings.prompt_embeds.abs().max().item<float>(), 0);
  EXPECT_EQ(embeddings.prompt_embeds.scalar_type(), at::kBFloat16);
}

}  // namespace
}  // namespace steadyflux
