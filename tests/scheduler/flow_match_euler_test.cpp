// goldens.json comes from diffusers (scripts/goldens/scheduler_goldens.py). Sigmas and timesteps
// are compared as bits: the schedule is plain float32 arithmetic, so there is no tolerance.
#include "scheduler/flow_match_euler.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstdlib>
#include <sstream>
#include <string>

#include "base/file.h"
#include "base/json.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

FlowMatchEulerConfig to_config(const nlohmann::json& json) {
  FlowMatchEulerConfig config;
  config.num_train_timesteps = json.value("num_train_timesteps", config.num_train_timesteps);
  config.shift = json.value("shift", config.shift);
  config.use_dynamic_shifting = json.value("use_dynamic_shifting", config.use_dynamic_shifting);
  config.base_shift = json.value("base_shift", config.base_shift);
  config.max_shift = json.value("max_shift", config.max_shift);
  config.base_image_seq_len = json.value("base_image_seq_len", config.base_image_seq_len);
  config.max_image_seq_len = json.value("max_image_seq_len", config.max_image_seq_len);
  config.time_shift_type = json.value("time_shift_type", config.time_shift_type);
  if (json.contains("shift_terminal")) config.shift_terminal = json["shift_terminal"].get<double>();
  return config;
}

std::vector<std::uint32_t> bits(const std::vector<float>& values) {
  std::vector<std::uint32_t> words;
  for (const float value : values) words.push_back(std::bit_cast<std::uint32_t>(value));
  return words;
}

std::vector<std::uint32_t> bits(const std::string& hex) {
  std::vector<std::uint32_t> words;
  std::istringstream stream(hex);
  for (std::string word; stream >> word;) {
    words.push_back(static_cast<std::uint32_t>(std::stoul(word, nullptr, 16)));
  }
  return words;
}

TEST(FlowMatchEuler, EqualsDiffusersBitForBit) {
  const std::string file = STEADYFLUX_SOURCE_DIR "/tests/scheduler/goldens.json";
  const nlohmann::json groups = parse_json(read_text_file(file), file);
  int schedules = 0;
  for (const auto& group : groups) {
    const FlowMatchEulerConfig config = to_config(group["config"]);
    for (const auto& golden : group["cases"]) {
      const auto steps = golden["steps"].get<std::int64_t>();
      const auto seq_len = golden["image_seq_len"].get<std::int64_t>();
      SCOPED_TRACE(group["name"].get<std::string>() + ", " + std::to_string(steps) + " steps, " +
                   std::to_string(seq_len) + " tokens");
      EXPECT_EQ(calculate_shift(seq_len, config),
                std::strtod(golden["mu"].get<std::string>().c_str(), nullptr));
      const FlowMatchEulerSchedule schedule = make_schedule(config, steps, seq_len);
      EXPECT_EQ(bits(schedule.sigmas), bits(golden["sigmas"].get<std::string>()));
      EXPECT_EQ(bits(schedule.timesteps), bits(golden["timesteps"].get<std::string>()));
      ++schedules;
    }
  }
  EXPECT_EQ(schedules, 166);
}

TEST(FlowMatchEuler, SigmasFallStrictlyToZero) {
  FlowMatchEulerConfig config;
  config.use_dynamic_shifting = true;
  for (const std::int64_t steps : {1, 2, 9, 200}) {
    const auto schedule = make_schedule(config, steps, 4096);
    ASSERT_EQ(schedule.sigmas.size(), static_cast<std::size_t>(steps) + 1);
    EXPECT_EQ(schedule.sigmas.front(), 1.0f);
    EXPECT_EQ(schedule.sigmas.back(), 0.0f);
    for (std::size_t i = 1; i < schedule.sigmas.size(); ++i) {
      EXPECT_LT(schedule.sigmas[i], schedule.sigmas[i - 1]);
    }
  }
}

TEST(FlowMatchEuler, RefusesWhatHasNoSchedule) {
  EXPECT_THROW(make_schedule({}, 0, 1024), Error);
  FlowMatchEulerConfig terminal;
  terminal.shift_terminal = 0.1;
  EXPECT_THROW(make_schedule(terminal, 1, 1024), Error);  // diffusers divides 0 by 0 here
}

TEST(FlowMatchEuler, RefusesShiftsThatAreNoNumbers) {
  FlowMatchEulerConfig steep;
  steep.use_dynamic_shifting = true;
  steep.max_image_seq_len = steep.base_image_seq_len + 1;
  EXPECT_NO_THROW(make_schedule(steep, 4, 256));
  EXPECT_THROW(make_schedule(steep, 4, 4096), Error);  // exp(mu) is infinite
  steep.time_shift_type = "linear";
  EXPECT_NO_THROW(make_schedule(steep, 4, 4096));
  EXPECT_THROW(make_schedule(steep, 4, 100), Error);  // mu is negative
}

}  // namespace
}  // namespace steadyflux
