// Hand-made plans, so that what is printed is known to the digit.
#include "cli/plan_text.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "base/utf8.h"

namespace steadyflux::cli {
namespace {

constexpr std::int64_t kMiB = std::int64_t{1} << 20;
constexpr std::int64_t kGiB = std::int64_t{1} << 30;

WeightsPlan weights_of(const std::string& component, std::int64_t resident, std::int64_t host,
                       std::int64_t disk, std::int64_t passes) {
  WeightsPlan weights;
  weights.component = component;
  const auto add = [&weights](std::int64_t count, UnitPlace place) {
    for (std::int64_t i = 0; i < count; ++i) {
      weights.units.push_back({"unit", 256 * kMiB, 128 * kMiB});
      weights.places.push_back(place);
    }
  };
  add(resident, UnitPlace::kResident);
  add(host, UnitPlace::kHost);
  add(disk, UnitPlace::kDisk);
  weights.fixed_bytes = 512 * kMiB;
  weights.buffers = disk > 0 ? 2 : 0;
  weights.buffer_bytes = disk > 0 ? 256 * kMiB : 0;
  weights.passes = passes;
  return weights;
}

const PlanTitle kOnCuda{"m", "cuda", "", ""};
const PlanTitle kOnCpu{"m", "cpu", "", ""};

Plan some_plan(bool has_device) {
  Plan plan;
  plan.budget = {.has_device = has_device,
                 .vram = has_device ? 8 * kGiB : 0,
                 .ram = 16 * kGiB,
                 .ram_base = 100 * kMiB};
  plan.workload.num_inference_steps = 28;
  plan.fits = true;
  PhasePlan encode;
  encode.name = "encode";
  encode.weights = {weights_of("text_encoder", 3, 0, 0, 1),
                    weights_of("text_encoder_2", 5, 0, 2, 1)};
  encode.ram_peak_bytes = 2 * kGiB;
  encode.disk_read_bytes = 256 * kMiB;
  PhasePlan denoise;
  denoise.name = "denoise";
  denoise.weights = {weights_of("transformer", 4, 3, 9, 28)};
  denoise.device_activations = 1536 * kMiB;
  denoise.host_activations = 768 * kMiB;
  denoise.device_peak_bytes = has_device ? 6 * kGiB : 0;
  denoise.ram_peak_bytes = 4 * kGiB;
  denoise.disk_read_bytes = 28 * 9 * 128 * kMiB;
  PhasePlan decode;
  decode.name = "decode";
  decode.weights = {weights_of("vae", 1, 0, 0, 1)};
  decode.device_peak_bytes = has_device ? 3 * kGiB : 0;
  decode.ram_peak_bytes = 1 * kGiB;
  plan.phases = {encode, denoise, decode};
  plan.device_peak_bytes = has_device ? 6 * kGiB : 0;
  plan.ram_peak_bytes = 4 * kGiB;
  plan.disk_read_bytes_per_step = 9 * 128 * kMiB;
  plan.disk_read_bytes = encode.disk_read_bytes + denoise.disk_read_bytes;
  plan.disk_bytes = 7 * kGiB;
  return plan;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// The first line that begins with `start`, with runs of blanks made one; "" if there is none.
std::string line_with(const std::string& text, const std::string& start) {
  for (const std::string& line : lines_of(text)) {
    if (line.rfind(start, 0) != 0) continue;
    std::string squeezed;
    for (const char c : line) {
      if (c != ' ' || squeezed.empty() || squeezed.back() != ' ') squeezed += c;
    }
    return squeezed;
  }
  return "";
}

std::size_t characters(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  }));
}

TEST(PlanText, TableHasOneUnitAndTheSumsOfUnits) {
  const std::string text = plan_text(some_plan(true), kOnCuda, {});
  EXPECT_EQ(line_with(text, "m:"),
            "m: 1 picture of 1024 x 1024, 28 steps, 512 T5 tokens, bf16 on cuda");
  EXPECT_EQ(line_with(text, "VRAM"), "VRAM budget 8.00 GiB");
  EXPECT_EQ(line_with(text, "RAM"), "RAM budget 16.00 GiB");
  EXPECT_EQ(line_with(text, "phase"), "phase resident in RAM on disk buffers activ. VRAM RAM read");
  // 0.5 fixed and 4 units of 0.25; 3 in RAM; 9 on disk, half as large in the file; 2 buffers.
  EXPECT_EQ(line_with(text, "denoise   "), "denoise 1.50 0.75 1.12 0.50 1.50 6.00 4.00 31.50");
  EXPECT_EQ(line_with(text, " text_encoder_2"), " text_encoder_2 1.75 - 0.25 0.50");
  EXPECT_NE(text.find("(GiB;"), std::string::npos);
}

TEST(PlanText, NothingOfADeviceWhereThereIsNone) {
  const std::string text = plan_text(some_plan(false), kOnCpu, {});
  EXPECT_EQ(line_with(text, "RAM"), "RAM budget 16.00 GiB");
  EXPECT_EQ(line_with(text, "phase"), "phase resident on disk buffers activ. RAM read");
  EXPECT_EQ(line_with(text, "denoise   "), "denoise 1.50 1.12 0.50 0.75 4.00 31.50");
  EXPECT_EQ(text.find("VRAM"), std::string::npos);
}

TEST(PlanText, SaysWhereTheBudgetsComeFrom) {
  PlanTitle title = kOnCuda;
  title.vram_reason = "8.00 GiB: a card";
  title.ram_reason = "16.00 GiB: a machine";
  const std::string text = plan_text(some_plan(true), title, {});
  EXPECT_EQ(line_with(text, "VRAM"), "VRAM budget 8.00 GiB: a card");
  EXPECT_EQ(line_with(text, "RAM"), "RAM budget 16.00 GiB: a machine");
}

TEST(PlanText, SmallPlansAreInMebibytes) {
  Plan plan = some_plan(false);
  for (PhasePlan& phase : plan.phases) phase.ram_peak_bytes = 100 * kMiB;
  plan.ram_peak_bytes = 100 * kMiB;
  const std::string text = plan_text(plan, kOnCpu, {});
  EXPECT_NE(text.find("(MiB;"), std::string::npos);
  EXPECT_NE(line_with(text, "decode   ").find(" 100.00 -"), std::string::npos);
}

TEST(PlanText, BarsAreSharesOfTheBudget) {
  TextStyle style;
  style.width = 68;  // 40 cells
  const std::string text = plan_text(some_plan(true), kOnCuda, style);
  EXPECT_EQ(line_with(text, "denoise  VRAM"),
            "denoise VRAM " + std::string(30, '#') + std::string(10, '.') + " 6.00 GiB");
  EXPECT_EQ(line_with(text, "         RAM"),  // of encode: 2 of 16 GiB
            " RAM " + std::string(5, '#') + std::string(35, '.') + " 2.00 GiB");
}

TEST(PlanText, WhatIsBeyondTheBudgetStandsBehindItsMark) {
  Plan plan = some_plan(true);
  plan.budget.vram = 3 * kGiB;  // half of the 6 GiB of denoise
  TextStyle style;
  style.width = 68;
  const std::string text = plan_text(plan, kOnCuda, style);
  EXPECT_EQ(line_with(text, "denoise  VRAM"),
            "denoise VRAM " + std::string(20, '#') + "|" + std::string(19, '#') + " 6.00 GiB");
  EXPECT_EQ(line_with(text, "decode   VRAM"),
            "decode VRAM " + std::string(20, '#') + "|" + std::string(19, '.') + " 3.00 GiB");
}

TEST(PlanText, LinesFitTheTerminalAndUnicodeIsValid) {
  for (const std::size_t width : {80U, 100U, 300U}) {
    for (const bool unicode : {false, true}) {
      TextStyle style;
      style.width = width;
      style.unicode = unicode;
      const std::string text = plan_text(some_plan(true), kOnCuda, style);
      EXPECT_TRUE(is_valid_utf8(text));
      EXPECT_EQ(text.find('#') == std::string::npos, unicode);
      for (const std::string& line : lines_of(text)) {
        if (line.find(" read from disk ") == std::string::npos) {
          EXPECT_LE(characters(line), width) << line;
        }
      }
    }
  }
}

TEST(PlanText, ResidencyCountsUnitsAndBytes) {
  const std::string text = plan_text(some_plan(true), kOnCuda, {});
  EXPECT_EQ(line_with(text, "transformer:"),
            "transformer: 4 of 16 units resident, 1.00 GiB; 3 copied from RAM in every step, "
            "768.00 MiB; 9 read from disk in every step, 1.12 GiB");
  EXPECT_EQ(line_with(text, "text_encoder_2:"),
            "text_encoder_2: 5 of 7 units resident, 1.25 GiB; 2 read from disk once, 256.00 MiB");
  EXPECT_EQ(line_with(text, "vae:"), "vae: 1 of 1 unit resident, 256.00 MiB");
  EXPECT_EQ(line_with(text, "read from disk:"),
            "read from disk: 1.12 GiB per step, 31.75 GiB in all; the files have 7.00 GiB");
}

TEST(PlanText, MappedWeightsAndTheWayOfDecoding) {
  Plan plan = some_plan(false);
  plan.phases[1].weights[0].mapped = true;
  plan.vae = {.band_bytes = 64 * kMiB, .band_rows = 128, .tiled = true, .parked_in_ram = false};
  const std::string text = plan_text(plan, kOnCpu, {});
  EXPECT_EQ(line_with(text, "transformer:"),
            "transformer: used in place, 4.50 GiB of mapped files");
  EXPECT_EQ(line_with(text, "decoding:"), "decoding: bands of 128 rows of pixels");
  plan.vae.parked_in_ram = true;
  EXPECT_EQ(line_with(plan_text(plan, kOnCpu, {}), "decoding:"),
            "decoding: bands of 128 rows of pixels, the rest waits in RAM");
  plan.vae.tiled = false;
  EXPECT_EQ(line_with(plan_text(plan, kOnCpu, {}), "decoding:"),
            "decoding: the whole picture at once");
}

TEST(PlanJson, HoldsThePlan) {
  const Json json = plan_json(some_plan(true), kOnCuda, std::nullopt);
  EXPECT_EQ(json["fits"], true);
  EXPECT_EQ(json["device_peak_bytes"], 6 * kGiB);
  EXPECT_EQ(json["ram_peak_bytes"], 4 * kGiB);
  EXPECT_EQ(json["disk_read_bytes_per_step"], 9 * 128 * kMiB);
  EXPECT_EQ(json["budget"]["vram"], 8 * kGiB);
  EXPECT_TRUE(json["alternatives"].is_null());
  ASSERT_EQ(json["phases"].size(), 3U);
  EXPECT_EQ(json["phases"][2]["name"], "decode");
  EXPECT_EQ(json["phases"][2]["device_peak_bytes"], 3 * kGiB);
  EXPECT_EQ(json["phases"][2]["ram_peak_bytes"], kGiB);
  EXPECT_EQ(json["phases"][0]["weights"][1]["component"], "text_encoder_2");
  EXPECT_EQ(json["units"]["host"],
            (Json{{"count", 3}, {"bytes", 768 * kMiB}, {"file_bytes", 384 * kMiB}}));
  EXPECT_EQ(json["units"]["disk"]["file_bytes"], 9 * 128 * kMiB);
  EXPECT_TRUE(plan_json(some_plan(false), kOnCpu, {})["budget"]["vram"].is_null());
}

TEST(PlanJson, SaysWhatWouldFit) {
  Plan plan = some_plan(true);
  plan.fits = false;
  const Remedies remedies{
      .alone = {.vram = 7, .ram = 0, .width = 512, .height = 256}, .vram = 8, .ram = 9};
  const Json json = plan_json(plan, kOnCuda, remedies);
  EXPECT_EQ(json["fits"], false);
  EXPECT_EQ(json["alternatives"], (Json{{"vram", 7},
                                        {"ram", 0},
                                        {"width", 512},
                                        {"height", 256},
                                        {"together", {{"vram", 8}, {"ram", 9}}}}));
}

TEST(DoesNotFit, OneLineWithAllThatHelps) {
  Plan plan = some_plan(true);
  plan.fits = false;
  plan.budget.vram = 2 * kGiB;
  Remedies remedies;
  // A byte more than 6.50 GiB: rounded up, so that typing what is said is enough.
  remedies.alone = {.vram = 6656 * kMiB + 1, .ram = 20 * kGiB, .width = 768, .height = 512};
  EXPECT_EQ(does_not_fit_text(plan, remedies),
            "1024 x 1024 does not fit: denoise needs 6.00 GiB of VRAM, 2.00 GiB may be used; "
            "6.51 GiB of VRAM or 20.00 GiB of RAM would do; the largest size that fits is "
            "768 x 512");
  remedies.alone.ram = 0;
  EXPECT_NE(does_not_fit_text(plan, remedies).find("used; 6.51 GiB of VRAM would do; the"),
            std::string::npos);
}

TEST(DoesNotFit, BothBudgetsMayBeTooSmall) {
  Plan plan = some_plan(true);
  plan.budget.vram = 2 * kGiB;
  plan.budget.ram = 512 * kMiB;
  EXPECT_EQ(does_not_fit_text(plan, {.alone = {}, .vram = 6 * kGiB, .ram = 700 * kMiB}),
            "1024 x 1024 does not fit: denoise needs 6.00 GiB of VRAM, 2.00 GiB may be used, "
            "denoise needs 4.00 GiB of RAM, 512.00 MiB may be used; 6.00 GiB of VRAM with "
            "700.00 MiB of RAM would do; no size fits");
  EXPECT_NE(does_not_fit_text(plan, {}).find("; no amount of memory would do; no size fits"),
            std::string::npos);
}

TEST(DoesNotFit, OnTheCpuOnlyRamCounts) {
  Plan plan = some_plan(false);
  plan.budget.ram = 3 * kGiB;
  Remedies remedies;
  remedies.alone = {.vram = 0, .ram = 4 * kGiB, .width = 512, .height = 512};
  EXPECT_EQ(does_not_fit_text(plan, remedies),
            "1024 x 1024 does not fit: denoise needs 4.00 GiB of RAM, 3.00 GiB may be used; "
            "4.00 GiB of RAM would do; the largest size that fits is 512 x 512");
}

}  // namespace
}  // namespace steadyflux::cli
