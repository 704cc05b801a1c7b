// sampling_goldens.json comes from diffusers (scripts/goldens/scheduler_goldens.py).
#include "scheduler/sampling_schedule.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "expect_error.h"
#include "scheduler/dpm_solver.h"
#include "scheduler/other_programs.h"

namespace steadyflux {
namespace {

FlowMatchEulerConfig to_config(const nlohmann::json& json) {
  FlowMatchEulerConfig config;
  config.shift = json.value("shift", config.shift);
  config.use_dynamic_shifting = json.value("use_dynamic_shifting", false);
  config.time_shift_type = json.value("time_shift_type", config.time_shift_type);
  return config;
}

std::vector<float> floats(const nlohmann::json& hex) {
  std::vector<float> values;
  std::istringstream stream(hex.get<std::string>());
  for (std::string word; stream >> word;) {
    values.push_back(
        std::bit_cast<float>(static_cast<std::uint32_t>(std::stoul(word, nullptr, 16))));
  }
  return values;
}

nlohmann::json cases() {
  const std::string file = STEADYFLUX_SOURCE_DIR "/tests/scheduler/sampling_goldens.json";
  return parse_json(read_text_file(file), file);
}

FlowMatchEulerSchedule schedule_of(const nlohmann::json& golden) {
  Sampling sampling;
  sampling.scheduler = golden["scheduler"].get<std::string>();
  sampling.sigmas = golden["sigmas"].get<std::vector<double>>();
  if (!golden["shift"].is_null()) sampling.shift = golden["shift"].get<double>();
  check_sampling(sampling);
  return make_schedule(to_config(golden["config"]), true, sampling,
                       golden["steps"].get<std::int64_t>(),
                       golden["image_seq_len"].get<std::int64_t>());
}

TEST(SamplingSchedule, EqualsDiffusersBitForBit) {
  std::size_t schedules = 0;
  for (const auto& golden : cases()) {
    SCOPED_TRACE(golden.dump().substr(0, 200));
    const auto schedule = schedule_of(golden);
    EXPECT_EQ(schedule.sigmas, floats(golden["expected_sigmas"]));
    EXPECT_EQ(schedule.timesteps, floats(golden["expected_timesteps"]));
    ++schedules;
  }
  EXPECT_EQ(schedules, 28u);
}

TEST(DpmCoefficients, MakeTheStepsOfDiffusers) {
  std::size_t steps = 0;
  for (const auto& golden : cases()) {
    if (!golden.contains("latents")) continue;
    const auto sigmas = floats(golden["expected_sigmas"]);
    std::vector<float> before;
    for (std::size_t step = 0; step + 1 < sigmas.size(); ++step, ++steps) {
      const auto numbers = dpm_coefficients(sigmas, step, !before.empty());
      const auto latents = golden["latents"][step].get<std::vector<float>>();
      const auto velocity = golden["velocities"][step].get<std::vector<float>>();
      const auto expected = golden["latents"][step + 1].get<std::vector<float>>();
      std::vector<float> prediction;
      for (std::size_t i = 0; i < latents.size(); ++i) {
        prediction.push_back(latents[i] - velocity[i] * sigmas[step]);
        float found = numbers.sample * latents[i] - numbers.prediction * prediction[i];
        if (!before.empty()) {
          found -= 0.5f * numbers.prediction * numbers.difference * (prediction[i] - before[i]);
        }
        // Logarithms and exponentials are rounded otherwise by other libraries.
        EXPECT_NEAR(found, expected[i], 2e-5 * (1 + std::abs(expected[i]))) << "step " << step;
      }
      before = std::move(prediction);
    }
  }
  EXPECT_EQ(steps, 3u * (1 + 2 + 3 + 8 + 20));
}

// With levels of one's own the first is 1, where the logarithm is infinite.
TEST(DpmCoefficients, BeginAt1AndEndAt0) {
  const std::vector<float> sigmas = {1, 0.5f, 0};
  const auto first = dpm_coefficients(sigmas, 0, false);
  EXPECT_EQ(first.sample, 0.5f);
  EXPECT_EQ(first.prediction, -0.5f);
  const auto last = dpm_coefficients(sigmas, 1, true);
  EXPECT_EQ(last.sample, 0.0f);
  EXPECT_EQ(last.prediction, -1.0f);
  EXPECT_EQ(last.difference, 0.0f);
  const std::vector<float> longer = {1, 0.5f, 0.25f, 0};
  EXPECT_EQ(dpm_coefficients(longer, 1, true).difference,
            0.0f);  // the step before: infinitely long
}

// What the programs' own formulas give.
TEST(OtherPrograms, HaveLevelsOfTheirOwn) {
  const auto sigmas = [](const char* compat, bool is_dev, std::int64_t steps, std::int64_t tokens) {
    Sampling sampling;
    sampling.compat = compat;
    FlowMatchEulerConfig own;  // plays no part
    own.shift = 17;
    return make_schedule(own, is_dev, sampling, steps, tokens).sigmas;
  };
  const auto expect = [](const std::vector<float>& found, const std::vector<double>& expected) {
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-6) << i;
  };
  // schnell: no shift. ComfyUI picks from a table of 1000: 1 - 333 / 1000, 1 - 666 / 1000.
  expect(sigmas("bfl", false, 4, 4096), {1, 0.75, 0.5, 0.25, 0});
  expect(sigmas("comfyui", false, 4, 4096), {1, 0.75, 0.5, 0.25, 0});
  expect(sigmas("bfl", false, 3, 4096), {1, 2.0 / 3, 1.0 / 3, 0});
  expect(sigmas("comfyui", false, 3, 4096), {1, 0.667, 0.334, 0});
  const auto shifted = [](double mu, double level) {
    return std::exp(mu) / (std::exp(mu) + (1 / level - 1));
  };
  // dev: BFL's mu is a line through 0.5 at 256 tokens and 1.15 at 4096; ComfyUI's is 1.15.
  for (const auto& [tokens, mu] : {std::pair{256, 0.5}, {4096, 1.15}, {2176, 0.825}}) {
    expect(sigmas("bfl", true, 2, tokens), {1, shifted(mu, 0.5), 0});
    expect(sigmas("comfyui", true, 2, tokens), {1, shifted(1.15, 0.5), 0});
  }
  expect(sigmas("comfyui", true, 3, 256), {1, shifted(1.15, 0.6667), shifted(1.15, 0.3334), 0});
}

TEST(OtherPrograms, PadPromptsOtherwise) {
  EXPECT_EQ(sequence_length_of("bfl", true), 512);
  EXPECT_EQ(sequence_length_of("bfl", false), 256);
  EXPECT_EQ(sequence_length_of("comfyui", true), 256);
  EXPECT_EQ(sequence_length_of("diffusers", true), std::nullopt);
}

TEST(CheckSampling, RefusesWhatHasNoMeaning) {
  const auto refuse = [](const Sampling& sampling, const std::string& says) {
    expect_error(ErrorKind::kUsage, says, [&] { check_sampling(sampling); });
  };
  EXPECT_NO_THROW(check_sampling({}));
  refuse({.scheduler = "lms"}, "--scheduler lms");
  refuse({.compat = "forge"}, "--compat forge");
  refuse({.scheduler = "dpmpp_2m", .compat = "bfl"}, "dpmpp_2m with --compat bfl");
  refuse({.sigmas = {0.5, 0.5}}, "not below");
  refuse({.sigmas = {1, 0.5, 0}}, "0 at the end is added");
  refuse({.sigmas = {1.01}}, "up to 1");
  refuse({.sigmas = {std::nan("")}}, "up to 1");
  refuse({.shift = 0.0}, "--shift 0");
  refuse({.shift = std::nan("")}, "--shift");
  EXPECT_NO_THROW(check_sampling({.sigmas = {0.9, 0.3}, .shift = 1000.0}));
  for (const double threshold : {-0.01, 1.01, std::nan("")}) {
    refuse({.cache_threshold = threshold}, "--cache-threshold");
  }
  EXPECT_NO_THROW(check_sampling({.cache_threshold = 1}));
}

}  // namespace
}  // namespace steadyflux
