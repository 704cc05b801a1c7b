#include "memory/time_estimate.h"

#include <gtest/gtest.h>

#include "expect_error.h"
#include "memory/largest_size.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kGiB = std::int64_t{1} << 30;

// FLUX.1's own shapes are the defaults of the configurations.
FluxModel flux() { return {}; }

Plan plan_of(std::int64_t side, const Budget& budget) {
  const Workload work{.width = side, .height = side, .num_inference_steps = 28, .stored = {}};
  return make_plan(flux(), work, budget);
}

const Budget kRoomy{.ram = 64 * kGiB};

TEST(TimeEstimate, CountsWhatFlux1Computes) {
  const auto model = flux();
  // docs/memory.md: 74 TFLOP a step at 1024 x 1024, 21 at 512 x 512.
  EXPECT_NEAR(transformer_flops(model.transformer, 512, 64 * 64) / 1e12, 74, 0.5);
  EXPECT_NEAR(transformer_flops(model.transformer, 512, 32 * 32) / 1e12, 21, 0.5);
  // Layers at a quarter of the time: attention, 57 * 4 * 3072 * 1536^2 operations, is whole.
  EXPECT_NEAR(transformer_flops(model.transformer, 512, 32 * 32, 0.25) / 1e12,
              1.65 + (21 - 1.65) / 4, 0.5);
  // 4.76 billion weights of T5's blocks, less its table, each once for every token.
  EXPECT_NEAR(t5_flops(model.text_encoder_2, 512) / 1e12, 2 * 4.63e9 * 512 / 1e12 + 0.05, 0.1);
  // Twice the pixels: a little more than twice, for the attention.
  const auto small = vae_flops(model.vae, 512, 512), large = vae_flops(model.vae, 512, 1024);
  EXPECT_GT(large, 2 * small);
  EXPECT_LT(large, 2.2 * small);
}

TEST(TimeEstimate, IsTheLongerOfComputingAndMoving) {
  const auto model = flux();
  const auto roomy = plan_of(1024, kRoomy);
  ASSERT_EQ(roomy.disk_read_bytes, 0);  // mapped
  const double slow = estimated_seconds(model, roomy, {.flops = 1e12});
  EXPECT_NEAR(estimated_seconds(model, roomy, {.flops = 2e12}), slow / 2, slow / 1e6);
  EXPECT_NEAR(slow, 28 * 74, 60);
  // Where everything comes from the disk, a faster machine gains nothing.
  const auto tight = plan_of(1024, {.ram = 6 * kGiB});
  ASSERT_TRUE(tight.fits);
  ASSERT_GT(tight.disk_read_bytes, 100 * kGiB);
  const double moving = estimated_seconds(model, tight, {.flops = 1e18});
  EXPECT_NEAR(moving, static_cast<double>(tight.disk_read_bytes) / 1.5e9, moving / 100);
  EXPECT_GT(estimated_seconds(model, tight, {.flops = 1e12}), slow);
}

TEST(TimeEstimate, IsOfOnePictureWhereThatIsAskedFor) {
  const auto model = flux();
  Workload work{.width = 512, .height = 512, .num_images = 4, .stored = {}};
  const auto plan = make_plan(model, work, kRoomy);
  const MachineSpeed speed{.flops = 1e12};
  EXPECT_NEAR(seconds_a_picture(model, plan, speed), estimated_seconds(model, plan, speed) / 4,
              1e-9);
  work.passes_per_step = 2;  // of 4 steps one has one pass: 7 instead of 4
  const auto twice = make_plan(model, work, kRoomy);
  EXPECT_NEAR((estimated_seconds(model, twice, speed) - estimated_seconds(model, plan, speed)) /
                  (4 * transformer_flops(model.transformer, 512, 32 * 32) / 1e12),
              3, 1e-6);
}

TEST(TimeEstimate, OnlyLayersOfBlocksAreFasterInFewerBits) {
  const auto model = flux();
  const Workload work{.width = 512, .height = 512, .num_encoded = 0, .stored = {}};
  const auto plan = make_plan(model, work, kRoomy);
  const double whole = estimated_seconds(model, plan, {.flops = 1e12});
  const double fewer = estimated_seconds(model, plan, {.flops = 1e12, .layers_factor = 0.25});
  const double attention = transformer_flops(model.transformer, 512, 32 * 32, 0) / 1e12;
  const double layers = transformer_flops(model.transformer, 512, 32 * 32) / 1e12 - attention;
  EXPECT_NEAR(whole - fewer, 4 * 0.75 * layers, 1e-6);
}

TEST(TimeEstimate, CountsWhatGoesInBesideAPicture) {
  const auto model = flux();
  const MachineSpeed speed{.flops = 1e12};
  const Workload plain{.width = 1024, .height = 1024, .num_encoded = 0, .stored = {}};
  const auto seconds = [&](const Workload& work) {
    return estimated_seconds(model, make_plan(model, work, kRoomy), speed);
  };
  const double steps = 4 * transformer_flops(model.transformer, 512, 64 * 64) / speed.flops;
  auto guided = plain;
  guided.num_guided = 1;
  EXPECT_NEAR(seconds(guided) - seconds(plain), steps, steps / 1e6);
  auto shown = plain;
  shown.num_references = 1;
  shown.reference_width = shown.reference_height = 1024;
  const double with = 4 * transformer_flops(model.transformer, 512, 2 * 64 * 64) / speed.flops;
  const double encoded = vae_flops(model.vae, 1024, 1024) / speed.flops;
  EXPECT_NEAR(seconds(shown) - seconds(plain), with - steps + encoded, with / 1e6);
}

TEST(TimeEstimate, LargestSizeKeepsToIt) {
  const auto model = flux();
  const Workload work{.num_inference_steps = 4, .stored = {}};
  const MachineSpeed speed{.flops = 1e12};
  std::int64_t before = 0;
  for (const double most : {60.0, 100.0, 300.0, 1000.0}) {
    const auto sides =
        largest_size(model, work, kRoomy, {}, {1, 1}, within_seconds(model, speed, most));
    ASSERT_TRUE(sides) << most;
    auto sized = work;
    sized.width = sized.height = sides->width;
    EXPECT_LE(seconds_a_picture(model, make_plan(model, sized, kRoomy), speed), most);
    sized.width = sized.height = sides->width + 16;
    EXPECT_GT(seconds_a_picture(model, make_plan(model, sized, kRoomy), speed), most);
    EXPECT_GT(sides->width, before);
    before = sides->width;
  }
}

TEST(TimeEstimate, SaysWhenNothingIsQuickEnough) {
  const auto model = flux();
  Workload work{.width = 16, .height = 16, .num_inference_steps = 28, .stored = {}};
  const auto smallest = make_plan(model, work, kRoomy);
  const MachineSpeed speed{.flops = 1e10};
  EXPECT_FALSE(largest_size(model, work, kRoomy, {}, {1, 1}, within_seconds(model, speed, 1)));
  expect_error(ErrorKind::kUsage, "--max-seconds 1: even a picture of 16 x 16",
               [&] { throw_if_too_slow(model, smallest, speed, 1); });
  EXPECT_NO_THROW(throw_if_too_slow(model, smallest, speed, 1e9));
  const auto too_large = make_plan(model, work, {.ram = kGiB / 4});
  ASSERT_FALSE(too_large.fits);  // then memory is what is said to be short
  EXPECT_NO_THROW(throw_if_too_slow(model, too_large, speed, 1));
}

}  // namespace
}  // namespace steadyflux
