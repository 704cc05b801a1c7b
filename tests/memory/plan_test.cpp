// Plans as such, for models of many shapes and for FLUX.1 where its configurations are at hand: no
// plan that fits exceeds its budget, more memory never makes a plan poorer, and the advice for what
// does not fit is right.
#include "memory/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <random>

#include "memory/footprint.h"
#include "memory/plan_advice.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kMiB = std::int64_t{1} << 20;
constexpr std::int64_t kGiB = std::int64_t{1} << 30;

// FLUX.1, without a file.
FluxModel flux1(std::int64_t double_blocks = 19, std::int64_t single_blocks = 38) {
  FluxModel model;
  model.transformer.num_layers = double_blocks;
  model.transformer.num_single_layers = single_blocks;
  model.transformer.guidance_embeds = true;
  return model;
}

Budget card(std::int64_t vram, std::int64_t ram) {
  return {.has_device = true,
          .vram = vram,
          .ram = ram,
          .ram_base = 128 * kMiB + kCudaHostBytes,
          .device_context = kCudaBytes};
}

Budget cpu(std::int64_t ram) { return {.ram = ram, .ram_base = 128 * kMiB}; }

Workload picture(std::int64_t width, std::int64_t height) {
  return {.width = width, .height = height, .num_inference_steps = 28, .stored = {}};
}

std::int64_t residents(const Plan& plan) {
  return plan.phase("denoise").weights.front().count(UnitPlace::kResident);
}

TEST(Plan, FluxOnSmallMachines) {
  const auto model = flux1();
  const struct {
    std::int64_t vram, ram, side;
  } cases[] = {{8 * kGiB, 16 * kGiB, 1024}, {4 * kGiB, 8 * kGiB, 512}, {2 * kGiB, 4 * kGiB, 1024}};
  for (const auto& c : cases) {
    const auto plan = make_plan(model, picture(c.side, c.side), card(c.vram, c.ram));
    EXPECT_TRUE(plan.fits) << c.vram;
    EXPECT_LE(plan.device_peak_bytes, c.vram);
    EXPECT_LE(plan.ram_peak_bytes, c.ram);
  }
}

TEST(Plan, NeverExceedsItsBudgetAndMoreIsNeverPoorer) {
  std::mt19937 generator(5);
  const auto pick = [&](std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(generator);
  };
  for (int i = 0; i < 400; ++i) {
    const auto model = flux1(pick(1, 19), pick(1, 38));
    auto work = picture(16 * pick(4, 128), 16 * pick(4, 128));
    work.num_images = pick(1, 4);
    work.num_guided = pick(0, work.num_images);
    work.num_inference_steps = pick(1, 60);
    work.num_step_caches = i % 3 == 0 ? pick(1, work.num_images + work.num_guided) : 0;
    work.dtype = pick(0, 3) == 0 ? "fp32" : "bf16";
    const bool on_card = i % 2 == 0;
    auto vram = pick(kGiB / 2, 30 * kGiB), ram = pick(kGiB, 64 * kGiB);
    std::int64_t before = -1;
    bool fitted = false;
    for (int step = 0; step < 6; ++step) {
      const auto budget = on_card ? card(vram, ram) : cpu(ram);
      const auto plan = make_plan(model, work, budget);
      EXPECT_EQ(plan.fits,
                plan.ram_peak_bytes <= ram && (!on_card || plan.device_peak_bytes <= vram));
      EXPECT_TRUE(plan.fits || !fitted) << "more memory, and it does not fit any more";
      fitted = plan.fits;
      if (plan.fits) {
        EXPECT_GE(residents(plan), before);
        before = residents(plan);
      }
      for (const auto& phase : plan.phases) {
        EXPECT_LE(phase.ram_peak_bytes, plan.ram_peak_bytes);
        EXPECT_LE(phase.device_peak_bytes, plan.device_peak_bytes);
      }
      (on_card ? vram : ram) += pick(1, 2 * kGiB);
    }
  }
}

TEST(Plan, LeanerIsLessAndComesToAnEnd) {
  const auto model = flux1();
  for (const auto& budget :
       {card(24 * kGiB, 64 * kGiB), card(8 * kGiB, 16 * kGiB), cpu(64 * kGiB), cpu(12 * kGiB)}) {
    std::int64_t before = std::numeric_limits<std::int64_t>::max();
    Plan plan;
    for (int leaner = 0; leaner < 8; ++leaner) {
      plan = make_plan(model, picture(1024, 1024), budget, {.leaner = leaner});
      const auto peak = budget.has_device ? plan.phase("denoise").device_peak_bytes
                                          : plan.phase("denoise").ram_peak_bytes;
      EXPECT_LE(peak, before);
      before = peak;
    }
    EXPECT_TRUE(plan.leanest);
    EXPECT_EQ(residents(plan), 0);
    EXPECT_EQ(plan.phase("denoise").weights.front().buffers, 1);
  }
}

// Streamed units lie evenly among the residents: there are no long stretches of either.
TEST(Plan, ResidentsAreSpreadEvenly) {
  const auto model = flux1();
  for (const auto gib : {6, 9, 13}) {
    const auto plan = make_plan(model, picture(1024, 1024), card(gib * kGiB, 64 * kGiB));
    const auto& places = plan.phase("denoise").weights.front().places;
    const auto count = static_cast<std::int64_t>(places.size());
    const auto share = static_cast<double>(residents(plan)) / static_cast<double>(count);
    ASSERT_GT(share, 0.1);
    ASSERT_LT(share, 0.9);
    const std::int64_t window = 24;
    for (std::int64_t begin = 0; begin + window <= count; ++begin) {
      const auto in_window =
          std::count(places.begin() + begin, places.begin() + begin + window, UnitPlace::kResident);
      EXPECT_NEAR(static_cast<double>(in_window) / static_cast<double>(window), share, 0.2);
    }
  }
}

TEST(Plan, ModulationIsNotInPlaceWhileDenoising) {
  const auto model = flux1();
  const auto plan = make_plan(model, picture(1024, 1024), card(40 * kGiB, 64 * kGiB));
  const auto& denoise = plan.phase("denoise").weights.front();
  EXPECT_EQ(denoise.count(UnitPlace::kResident), static_cast<std::int64_t>(denoise.units.size()));
  // 11.90 G parameters, 3.247 G of them in modulation linears.
  const auto total = static_cast<double>(denoise.total_bytes() + denoise.fixed_bytes);
  EXPECT_NEAR(total / 2e9, 11.90 - 3.247, 0.05);
  for (const auto& unit : denoise.units) EXPECT_EQ(unit.name.find("norm1"), std::string::npos);
}

TEST(Plan, ANegativePromptTakesRoomAndBringsNoWeightsAgain) {
  const auto model = flux1();
  auto work = picture(1024, 1024);
  const auto plain = make_plan(model, work, card(8 * kGiB, 16 * kGiB));
  work.num_guided = 1;
  work.num_prompts = work.num_encoded = work.num_tables = 2;
  const auto guided = make_plan(model, work, card(8 * kGiB, 16 * kGiB));
  EXPECT_TRUE(guided.fits);
  // Its stream of text and picture, in bf16, at least.
  const auto stream = (512 + 4096) * std::int64_t{3072} * 2;
  EXPECT_GT(guided.phase("denoise").device_activations,
            plain.phase("denoise").device_activations + stream);
  EXPECT_EQ(guided.phase("denoise").weights.front().passes, 28);
  // Of a group of four with one negative prompt five go in, with four of them eight.
  work.num_images = 4;
  std::int64_t before = 0;
  for (const std::int64_t count : {0, 1, 4}) {
    work.num_guided = count;
    const auto plan = make_plan(model, work, card(8 * kGiB, 16 * kGiB));
    ASSERT_EQ(plan.denoise_group, 4) << count;
    const auto activations = plan.phase("denoise").device_activations;
    EXPECT_GE(activations, before) << count;
    before = activations + stream;
  }
}

TEST(Plan, ManyStepsAreModulatedInChunks) {
  const auto model = flux1();
  auto work = picture(512, 512);
  work.num_inference_steps = 1000;
  const auto roomy = make_plan(model, work, card(24 * kGiB, 64 * kGiB));
  EXPECT_EQ(roomy.modulation_rows, 128);
  const auto tight = make_plan(model, work, card(24 * kGiB, 1300 * kMiB));
  EXPECT_LT(tight.modulation_rows, 128);
  EXPECT_GE(tight.modulation_rows, 4);
  EXPECT_LE(tight.phase("denoise").ram_peak_bytes, 1300 * kMiB);
}

TEST(Plan, TilesBoundWhatIsComputedWith) {
  const auto model = flux1();
  auto small = picture(1024, 1024), large = picture(4096, 4096);
  small.tile = large.tile = 1024;
  small.num_init_images = large.num_init_images = 1;
  const auto one = make_plan(model, small, card(8 * kGiB, 16 * kGiB));
  const auto many = make_plan(model, large, card(8 * kGiB, 16 * kGiB));
  EXPECT_TRUE(many.fits);
  for (const char* phase : {"encode_image", "decode"}) {
    EXPECT_EQ(many.phase(phase).device_peak_bytes, one.phase(phase).device_peak_bytes) << phase;
  }
  // 25 tiles, in groups that the plan has chosen.
  const auto group = many.denoise_group;
  EXPECT_EQ(many.phase("denoise").weights.front().passes, 28 * ((25 + group - 1) / group));
  // In RAM there are the sums of tiles: 3 channels of pixels in fp32 and in bf16, two tiles, and
  // the pixels as bytes.
  EXPECT_LE(many.phase("decode").ram_peak_bytes - one.phase("decode").ram_peak_bytes,
            3 * 4096 * 4096 * (4 + 2 + 2) + 24 * 1024 * 1024 + 8 * kMiB);
}

TEST(Plan, StepsOfTwoPassesReadTwiceAndLookARowAhead) {
  const auto model = flux1();
  auto work = picture(512, 512);
  work.num_inference_steps = 500;
  const auto budget = card(4 * kGiB, 3 * kGiB);
  const auto once = make_plan(model, work, budget);
  work.passes_per_step = 2;
  const auto twice = make_plan(model, work, budget);
  ASSERT_EQ(once.modulation_rows, 128);
  ASSERT_EQ(twice.modulation_rows, 128);
  EXPECT_EQ(once.phase("denoise").weights.front().passes, 500);
  EXPECT_EQ(twice.phase("denoise").weights.front().passes, 999);
  const auto read = [](const Plan& plan) {
    return static_cast<double>(plan.phase("denoise").disk_read_bytes);
  };
  ASSERT_GT(read(once), 0);
  EXPECT_NEAR(read(twice) / read(once), 999.0 / 500, 0.01);
  const auto host = [](const Plan& plan) { return plan.phase("modulate").host_activations; };
  EXPECT_EQ(host(twice) - host(once), modulation_row_bytes(model.transformer, "bf16"));
  work.solver_latents = 2;
  const auto kept = make_plan(model, work, budget).phase("denoise").host_activations;
  EXPECT_EQ(kept - twice.phase("denoise").host_activations, 2 * 32 * 32 * 64 * 2);
}

TEST(Plan, SmallTilesOfALargePictureLeaveASolverItsRoom) {
  auto model = flux1();
  model.transformer.num_attention_heads = 1;  // so that a tile takes little
  auto work = picture(4096, 4096);
  work.tile = 128;
  work.num_images = 1;
  const std::int64_t values = std::int64_t{256} * 256 * 64;
  for (const auto& [solver_latents, bytes] : {std::pair{0, 12}, {1, 24}, {2, 24}}) {  // bf16
    work.solver_latents = solver_latents;
    const auto on_card = make_plan(model, work, card(40 * kGiB, 64 * kGiB)).phase("denoise");
    EXPECT_GE(on_card.device_activations, values * bytes);
    EXPECT_LE(on_card.device_activations, values * bytes + 16 * (std::int64_t{1} << 20));
    // In RAM where what is begun with waits, and the next latents after it.
    const auto on_cpu = make_plan(model, work, cpu(64 * kGiB)).phase("denoise");
    EXPECT_GE(on_cpu.host_activations, values * (bytes + 2));
  }
}

TEST(Plan, StepCachesWaitInRam) {
  const auto model = flux1();
  auto work = picture(1024, 768);
  work.num_images = 4;
  const auto one = 2 * 64 * 48 * std::int64_t{3072} * 2;  // of a picture, in bf16
  // More of them than go through together, which have their weights in place.
  const auto added = [&](const Budget& budget, int leaner = 0) {
    const auto host = [&] {
      const auto plan = make_plan(model, work, budget, {.leaner = leaner});
      EXPECT_TRUE(leaner > 0 || plan.denoise_group == 1);
      return plan.phase("denoise").host_activations;
    };
    work.num_step_caches = 0;
    const auto before = host();
    work.num_step_caches = 3;
    return host() - before;
  };
  EXPECT_EQ(added(card(40 * kGiB, 64 * kGiB)), one);
  EXPECT_EQ(added(cpu(64 * kGiB)), one);
  EXPECT_EQ(added(cpu(64 * kGiB), 1), 3 * one);  // whoever was under way before waits
  work.num_inference_steps = 200;                // more than are modulated at once
  EXPECT_EQ(added(cpu(64 * kGiB)), 3 * one);
  const auto modulate = make_plan(model, work, cpu(64 * kGiB)).phase("modulate").host_activations;
  work.num_step_caches = 0;
  EXPECT_EQ(modulate - make_plan(model, work, cpu(64 * kGiB)).phase("modulate").host_activations,
            3 * one);
  // With a tile of 1024 there are 4 in a picture of 1792: with a text each, then with two.
  work = picture(1792, 1792);
  work.tile = 1024;
  work.num_step_caches = 1;
  const auto tile = 2 * 64 * 64 * std::int64_t{3072} * 2;
  const auto host = [&](std::int64_t caches) {
    work.num_step_caches = caches;
    return make_plan(model, work, cpu(64 * kGiB)).phase("denoise").host_activations;
  };
  EXPECT_EQ(host(1) - host(0), 4 * tile);
  work.num_guided = 1;
  EXPECT_EQ(host(2) - host(0), 8 * tile);
}

// What every pass wants becomes resident first.
TEST(Plan, WithStepCachingTheFirstBlockStays) {
  const auto model = flux1();
  auto work = picture(512, 512);
  for (const std::int64_t caches : {0, 1}) {
    work.num_step_caches = caches;
    const auto plan = make_plan(model, work, card(4 * kGiB, 16 * kGiB));
    const auto& weights = plan.phase("denoise").weights.front();
    EXPECT_EQ(weights.always, caches > 0 ? 3U : 0U);
    ASSERT_LT(residents(plan), 60);
    ASSERT_GE(residents(plan), 3);
    const auto in_front =
        std::count(weights.places.begin(), weights.places.begin() + 3, UnitPlace::kResident);
    EXPECT_EQ(in_front == 3, caches > 0);
  }
}

TEST(Plan, AdviceIsRight) {
  const auto model = flux1();
  const auto work = picture(2048, 2048);
  const auto budget = card(900 * kMiB, 1300 * kMiB);
  const auto plan = make_plan(model, work, budget);
  ASSERT_FALSE(plan.fits);
  const auto remedies = find_remedies(model, work, budget, {});
  ASSERT_GT(remedies.alone.width, 0);
  auto smaller = work;
  smaller.width = remedies.alone.width;
  smaller.height = remedies.alone.height;
  EXPECT_TRUE(make_plan(model, smaller, budget).fits);
  smaller.width += 16;
  smaller.height += 16;
  EXPECT_FALSE(make_plan(model, smaller, budget).fits);
  // With enough on the card nothing has to wait in RAM.
  ASSERT_GT(remedies.alone.vram, 0);
  EXPECT_TRUE(make_plan(model, work, card(remedies.alone.vram, budget.ram)).fits);
  EXPECT_FALSE(make_plan(model, work, card(remedies.alone.vram - kMiB, budget.ram)).fits);
  const auto text = does_not_fit_text(plan, remedies);
  EXPECT_NE(text.find("2048 x 2048"), std::string::npos);
  EXPECT_EQ(text.find('\n'), std::string::npos);
}

TEST(Plan, AdviceWithoutACardIsRight) {
  const auto model = flux1();
  const auto work = picture(1536, 1024);
  const auto budget = cpu(700 * kMiB);
  ASSERT_FALSE(make_plan(model, work, budget).fits);
  const auto remedies = find_remedies(model, work, budget, {});
  EXPECT_EQ(remedies.alone.vram, 0);
  ASSERT_GT(remedies.alone.ram, 0);
  EXPECT_TRUE(make_plan(model, work, cpu(remedies.alone.ram)).fits);
  EXPECT_FALSE(make_plan(model, work, cpu(remedies.alone.ram - kMiB)).fits);
}

// Where one alone would not do, both are said.
TEST(Plan, AdviceForBothAtOnce) {
  const auto model = flux1();
  const auto work = picture(1024, 1024);
  const auto budget = card(600 * kMiB, 600 * kMiB);
  ASSERT_FALSE(make_plan(model, work, budget).fits);
  const auto remedies = find_remedies(model, work, budget, {});
  EXPECT_EQ(remedies.alone.vram, 0);
  EXPECT_EQ(remedies.alone.ram, 0);
  EXPECT_TRUE(make_plan(model, work, card(remedies.vram, remedies.ram)).fits);
}

}  // namespace
}  // namespace steadyflux
