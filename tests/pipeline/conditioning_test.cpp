// Pictures that the model is shown: which models take which, and how they lie beside the latents.
#include <ATen/ATen.h>

#include <memory>

#include "config/model_config.h"
#include "expect_error.h"
#include "pipeline/chunk.h"
#include "pipeline/condition_check.h"
#include "pipeline/phases.h"
#include "pipeline/workload.h"
#include "transformer/flux_transformer.h"

namespace steadyflux {
namespace {

using Role = ConditionImage::Role;

FluxModel model_of(FluxVariant variant) {
  FluxModel model;
  model.name = "m";
  model.transformer.guidance_embeds = variant != FluxVariant::kSchnell;
  model.is_kontext = variant == FluxVariant::kKontext;
  if (variant == FluxVariant::kFill) model.transformer.in_channels = 384;
  if (variant == FluxVariant::kControl) model.transformer.in_channels = 128;
  EXPECT_EQ(model.variant(), variant);
  return model;
}

Request shown_request(Role role, std::int64_t width = 64, std::int64_t height = 32) {
  Request request{.prompt = "x", .width = 64, .height = 32};
  auto condition = std::make_shared<ConditionImage>();
  condition->role = role;
  condition->image = "a.png";
  if (role == Role::kFill) condition->mask = "m.png";
  condition->width = width;
  condition->height = height;
  condition->load_bytes = 1000;
  request.condition = condition;
  return request;
}

TEST(CheckCondition, ModelsTakeTheirOwnPicture) {
  const Request plain{.prompt = "x", .width = 64, .height = 32};
  struct Case {
    FluxVariant variant;
    bool plain, reference, fill, control;
  };
  for (const auto& [variant, takes_none, reference, fill, control] :
       {Case{FluxVariant::kSchnell, true, false, false, false},
        {FluxVariant::kDev, true, true, false, false},
        {FluxVariant::kKontext, true, true, false, false},
        {FluxVariant::kFill, false, false, true, false},
        {FluxVariant::kControl, false, false, false, true}}) {
    const auto model = model_of(variant);
    for (const auto& [request, takes] : {std::pair{plain, takes_none},
                                         {shown_request(Role::kReference), reference},
                                         {shown_request(Role::kFill), fill},
                                         {shown_request(Role::kControl), control}}) {
      SCOPED_TRACE(to_string(variant) +
                   (request.condition ? request.condition->image.string() : ""));
      const auto check = [&, &request = request] { check_condition(model, request); };
      if (takes) {
        EXPECT_NO_THROW(check());
      } else {
        expect_error(ErrorKind::kUsage, "m is a " + to_string(variant), check);
      }
    }
  }
}

TEST(CheckCondition, NotBesideAPictureToBeginFrom) {
  for (const auto& [variant, role] : {std::pair{FluxVariant::kDev, Role::kReference},
                                      {FluxVariant::kFill, Role::kFill},
                                      {FluxVariant::kControl, Role::kControl}}) {
    auto request = shown_request(role);
    request.init_image = std::make_shared<InitImage>();
    expect_error(ErrorKind::kUsage, "m is a",
                 [&, &variant = variant] { check_condition(model_of(variant), request); });
  }
}

TEST(CheckCondition, Sizes) {
  const auto dev = model_of(FluxVariant::kDev), control = model_of(FluxVariant::kControl);
  EXPECT_NO_THROW(check_condition(dev, shown_request(Role::kReference, 16, 1600)));
  for (const std::int64_t side : {0, 8, 24}) {
    expect_error(ErrorKind::kUsage, "multiples of 16",
                 [&] { check_condition(dev, shown_request(Role::kReference, side, 32)); });
  }
  expect_error(ErrorKind::kUsage, "for a picture of 64 x 32",
               [&] { check_condition(control, shown_request(Role::kControl, 32, 32)); });
  auto without_mask = std::make_shared<ConditionImage>(*shown_request(Role::kFill).condition);
  without_mask->mask.clear();
  auto request = shown_request(Role::kFill);
  request.condition = without_mask;
  expect_error(ErrorKind::kUsage, "--mask",
               [&] { check_condition(model_of(FluxVariant::kFill), request); });
}

TEST(Conditioning, LiesBesideOrBehindTheLatents) {
  const auto latents = at::randn({1, 6, 4}), channels = at::randn({1, 6, 10}),
             tokens = at::randn({1, 3, 4});
  EXPECT_TRUE(at::equal(Conditioning{}.hidden_states(latents), latents));
  const auto beside = Conditioning{.channels = channels, .tokens = {}}.hidden_states(latents);
  EXPECT_TRUE(at::equal(beside.narrow(2, 0, 4), latents));
  EXPECT_TRUE(at::equal(beside.narrow(2, 4, 10), channels));
  const auto behind = Conditioning{.channels = {}, .tokens = tokens}.hidden_states(latents);
  EXPECT_TRUE(at::equal(behind.narrow(1, 0, 6), latents));
  EXPECT_TRUE(at::equal(behind.narrow(1, 6, 3), tokens));
}

TEST(PositionIds, AReferenceHasOneInTheFirst) {
  const auto ids = make_position_ids(2, {1, 2}, {2, 1});
  const auto expected = at::tensor({0, 0, 0, 0, 0, 0,   // text
                                    0, 0, 0, 0, 0, 1,   // picture
                                    1, 0, 0, 1, 1, 0},  // reference
                                   at::kFloat);
  EXPECT_TRUE(at::equal(ids, expected.view({6, 3})));
  EXPECT_TRUE(at::equal(make_position_ids(2, {1, 2}), ids.narrow(0, 0, 4)));
}

TEST(Workload, CountsWhatIsShown) {
  const auto model = model_of(FluxVariant::kDev);
  std::vector<Request> requests = {shown_request(Role::kReference, 64, 64),
                                   shown_request(Role::kReference, 32, 96),
                                   {.prompt = "y", .width = 96, .height = 32}};
  requests[0].num_images = 2;
  const auto chunk = make_chunk(model, requests);
  // The schedule is that of the picture alone.
  EXPECT_EQ(chunk.tables.front().image_len, 4 * 2);
  const auto work = make_workload(chunk, {}, "bf16", 1);
  EXPECT_EQ(work.num_references, 3);
  EXPECT_EQ(work.reference_width, 64);
  EXPECT_EQ(work.reference_height, 64);
  EXPECT_EQ(work.num_conditions, 0);
  EXPECT_EQ(work.image_load_bytes, 1000);
  EXPECT_TRUE(work.encodes_images());

  const std::vector<Request> fills = {shown_request(Role::kFill)};
  const auto fill = make_workload(make_chunk(model_of(FluxVariant::kFill), fills), {}, "bf16", 1);
  EXPECT_EQ(fill.num_conditions, 1);
  EXPECT_EQ(fill.num_references, 0);
  EXPECT_TRUE(fill.encodes_images());
}

// What is shown takes room in every phase that it waits in, and its tokens in the transformer.
TEST(Plan, ForeseesWhatIsShown) {
  const auto model = model_of(FluxVariant::kDev);
  const Budget budget{.vram = 0, .ram = std::int64_t{1} << 40};
  Workload work;
  work.width = work.height = 512;
  work.num_init_images = 1;
  const auto alone = make_plan(model, work, budget);
  work.num_references = 1;
  work.reference_width = work.reference_height = 1024;
  const auto beside = make_plan(model, work, budget);
  const std::int64_t tokens = 64 * 64, latents = tokens * 64 * 2;
  EXPECT_EQ(beside.phase("modulate").host_activations - alone.phase("modulate").host_activations,
            latents);
  // At least the stream of its tokens, at most what a picture of that size alone would take.
  const auto more =
      beside.phase("denoise").host_activations - alone.phase("denoise").host_activations;
  EXPECT_GT(more, latents + tokens * 3072 * 2);
  const Workload large;  // 1024 x 1024
  EXPECT_GT(beside.phase("denoise").host_activations,
            make_plan(model, large, budget).phase("denoise").host_activations);
  EXPECT_GT(beside.phase("encode_image").host_activations,
            alone.phase("encode_image").host_activations);
}

}  // namespace
}  // namespace steadyflux
