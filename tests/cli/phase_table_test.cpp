// The table at the end of a run: what was measured beside what the plan had said.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <sstream>

#include "cli/console.h"

namespace steadyflux::cli {
namespace {

constexpr std::int64_t kMiB = std::int64_t{1} << 20;

std::vector<PhaseStats> some_phases() {
  PhaseStats encode{.name = "encode", .seconds = 1.5};
  encode.peak_rss = 110 * kMiB;
  encode.peak_rss_anon = 60 * kMiB;
  encode.peak_rss_file = 50 * kMiB;
  PhaseStats denoise{.name = "denoise", .seconds = 2.25};
  denoise.peak_rss = 190 * kMiB;
  denoise.major_faults = 3;
  return {encode, denoise};
}

std::string last_line(const std::string& table) { return table.substr(table.rfind('\n') + 1); }

TEST(PhaseTable, WithoutAPlanThereIsNothingToCompare) {
  const std::string table = phase_table(some_phases(), false);
  EXPECT_EQ(table.find("predicted"), std::string::npos);
  EXPECT_EQ(table.find("GPU"), std::string::npos);
  EXPECT_NE(last_line(table).find("3.75  190.00 MiB"), std::string::npos) << table;
}

TEST(PhaseTable, SaysHowFarOffThePlanWas) {
  auto phases = some_phases();
  phases[0].predicted_ram = 100 * kMiB;
  phases[1].predicted_ram = 200 * kMiB;
  const std::string table = phase_table(phases, false);
  EXPECT_NE(table.find("110.00 MiB  100.00 MiB +10.0%"), std::string::npos) << table;
  EXPECT_NE(table.find("190.00 MiB  200.00 MiB  -5.0%"), std::string::npos) << table;
  EXPECT_NE(last_line(table).find("-5.0%"), std::string::npos) << table;  // peak of peaks
}

TEST(PhaseTable, LongNamesKeepTheColumns) {
  auto phases = some_phases();
  phases[0].name = "encode_image";
  std::istringstream lines(phase_table(phases, false));
  std::set<std::size_t> lengths;
  for (std::string line; std::getline(lines, line);) lengths.insert(line.size());
  EXPECT_EQ(lengths.size(), 1U);
  EXPECT_NE(phase_table(phases, false).find("encode_image     1.50 "), std::string::npos);
}

TEST(PhaseTable, FitsHundredColumnsWithADeviceAndAPlan) {
  auto phases = some_phases();
  for (PhaseStats& phase : phases) {
    phase.device_peak_allocated = 1023 * kMiB;
    phase.device_peak_reserved = 1023 * kMiB;
    phase.peak_rss = 1023 * kMiB;
    phase.predicted_device = 600 * kMiB;
    phase.predicted_ram = 600 * kMiB;
    phase.major_faults = 100000;
    phase.swap = 1023 * kMiB;
  }
  std::istringstream lines(phase_table(phases, false));
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100U) << line;
  const std::string verbose = phase_table(phases, true);
  for (const char* title : {"reserved", "anonymous", "file"}) {
    EXPECT_NE(verbose.find(title), std::string::npos) << verbose;
  }
}

}  // namespace
}  // namespace steadyflux::cli
