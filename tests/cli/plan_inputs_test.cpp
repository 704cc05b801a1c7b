// Which budget is planned with, and whether what a failed plan recommends does help.
#include "cli/plan_inputs.h"

#include <gtest/gtest.h>

#include "temp_folder.h"

namespace steadyflux::cli {
namespace {

constexpr std::int64_t kMiB = std::int64_t{1} << 20;
constexpr std::int64_t kGiB = std::int64_t{1} << 30;

class MakePlanInputs : public ::testing::Test {
 protected:
  MakePlanInputs() { job_.model.root = folder_.path(); }

  PlanInputs inputs(const std::string& device, std::optional<std::int64_t> vram,
                    std::optional<std::int64_t> ram) {
    job_.pipeline.device = device;
    job_.pipeline.max_vram = vram;
    job_.pipeline.max_ram = ram;
    return make_plan_inputs(job_);
  }
  Plan plan(const PlanInputs& inputs) const {
    return make_plan(job_.model, inputs.workload, inputs.budget, inputs.options);
  }

  TempFolder folder_;
  GenerateJob job_;  // FLUX.1-schnell, 1024 x 1024
};

TEST_F(MakePlanInputs, LimitsThatWereAskedForAreWholeLimits) {
  const PlanInputs found = inputs("cuda:1", 8 * kGiB, 16 * kGiB);
  EXPECT_TRUE(found.budget.has_device);
  EXPECT_LE(found.budget.vram, 8 * kGiB);
  EXPECT_GT(found.budget.vram, 7 * kGiB);
  EXPECT_LE(found.budget.ram, 16 * kGiB);
  EXPECT_GT(found.budget.ram, 15 * kGiB);
  EXPECT_GE(found.budget.ram_base, kCudaHostBytes);
  EXPECT_EQ(found.budget.device_context, kCudaBytes);
  EXPECT_EQ(found.title.device, "cuda:1");
  EXPECT_NE(found.title.vram_reason.find("--max-vram 8.00 GiB"), std::string::npos);
}

TEST_F(MakePlanInputs, ACardIsMeantWhereItsSizeIsGiven) {
  EXPECT_EQ(inputs("auto", 8 * kGiB, std::nullopt).title.device, "cuda");
  const PlanInputs found = inputs("cpu", 8 * kGiB, 4 * kGiB);
  EXPECT_FALSE(found.budget.has_device);
  EXPECT_EQ(found.title.device, "cpu");
  EXPECT_LT(found.budget.ram_base, kCudaHostBytes);
}

TEST_F(MakePlanInputs, WaysOfDecoding) {
  EXPECT_EQ(inputs("cpu", {}, {}).options.vae_tiling, Tiling::kAuto);
  job_.pipeline.vae_tiling = "on";
  EXPECT_EQ(inputs("cpu", {}, {}).options.vae_tiling, Tiling::kOn);
  job_.pipeline.vae_tiling = "off";
  EXPECT_EQ(inputs("cpu", {}, {}).options.vae_tiling, Tiling::kOff);
}

TEST_F(MakePlanInputs, GraphsAreOffUnlessAskedFor) {
  EXPECT_FALSE(inputs("cpu", {}, {}).options.cuda_graphs);
  job_.pipeline.cuda_graphs = "on";
  EXPECT_TRUE(inputs("cpu", {}, {}).options.cuda_graphs);
}

// 8 MiB: find_alternatives rounds up to 1 MiB, the RSS of this process varies by less than 2, and
// the margin changes in steps.
constexpr std::int64_t kSlack = 8 * kMiB;

TEST_F(MakePlanInputs, WhatIsRecommendedFitsAndLittleLessDoesNot) {
  const PlanInputs little_vram = inputs("cuda", 600 * kMiB, 16 * kGiB);
  ASSERT_FALSE(plan(little_vram).fits);
  const std::int64_t vram = find_remedies(job_.model, little_vram).alone.vram;
  ASSERT_GT(vram, 600 * kMiB);
  EXPECT_TRUE(plan(inputs("cuda", vram, 16 * kGiB)).fits);
  EXPECT_FALSE(plan(inputs("cuda", vram - kSlack, 16 * kGiB)).fits);

  const PlanInputs little_ram = inputs("cpu", std::nullopt, 200 * kMiB);
  ASSERT_FALSE(plan(little_ram).fits);
  const std::int64_t ram = find_remedies(job_.model, little_ram).alone.ram;
  ASSERT_GT(ram, 200 * kMiB);
  EXPECT_TRUE(plan(inputs("cpu", std::nullopt, ram)).fits);
  EXPECT_FALSE(plan(inputs("cpu", std::nullopt, ram - kSlack)).fits);
}

TEST_F(MakePlanInputs, BothLimitsAreRecommendedWhereNeitherAloneHelps) {
  const PlanInputs little = inputs("cuda", 600 * kMiB, 800 * kMiB);
  const Remedies remedies = find_remedies(job_.model, little);
  EXPECT_EQ(remedies.alone.vram, 0);
  EXPECT_EQ(remedies.alone.ram, 0);
  ASSERT_GT(remedies.vram, 600 * kMiB);
  ASSERT_GT(remedies.ram, 800 * kMiB);
  EXPECT_TRUE(plan(inputs("cuda", remedies.vram, remedies.ram)).fits);
}

TEST_F(MakePlanInputs, TheLargestSizeFits) {
  job_.request.width = 8192;
  job_.request.height = 4096;
  const PlanInputs large = inputs("cuda", 2 * kGiB, 4 * kGiB);
  ASSERT_FALSE(plan(large).fits);
  const Alternatives found = find_remedies(job_.model, large).alone;
  ASSERT_GT(found.width, 0);
  job_.request.width = found.width;
  job_.request.height = found.height;
  EXPECT_TRUE(plan(inputs("cuda", 2 * kGiB, 4 * kGiB)).fits);
}

}  // namespace
}  // namespace steadyflux::cli
