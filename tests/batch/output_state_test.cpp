// The table of what can lie in an output folder when a batch is begun again.
#include "batch/output_state.h"

#include <gtest/gtest.h>

#include "temp_folder.h"

namespace steadyflux {
namespace {

class OutputStateTest : public testing::Test {
 protected:
  void journal(const char* event, const std::string& settings, std::int64_t bytes = 0) {
    nlohmann::json line = journal_line(event, "a.png");
    line["settings"] = settings;
    line["bytes"] = bytes;
    journal_.append(line);
  }

  // `recorded`: what the picture says of itself.
  OutputState state(std::optional<std::string> recorded = std::nullopt) {
    return output_state(journal_, folder_.path(), "a.png", "mine",
                        [&](const std::filesystem::path& path) {
                          EXPECT_EQ(path, folder_ / "a.png");
                          ++asked_;
                          return recorded;
                        });
  }

  TempFolder folder_;
  Journal journal_ = Journal::open(folder_.path());
  int asked_ = 0;
};

TEST_F(OutputStateTest, NothingThere) {
  EXPECT_EQ(state(), OutputState::kMissing);
  journal("done", "mine", 4);
  EXPECT_EQ(state(), OutputState::kMissing);
  journal("done", "others", 4);
  EXPECT_EQ(state(), OutputState::kMissing);
  EXPECT_EQ(asked_, 0);
}

TEST_F(OutputStateTest, InTheJournal) {
  folder_.write("a.png", "1234");
  journal("done", "mine", 4);
  EXPECT_EQ(state("others"), OutputState::kDone);
  EXPECT_EQ(asked_, 0) << "pictures need not be opened to be passed over";
  journal("done", "others", 4);
  EXPECT_EQ(state(), OutputState::kChanged);
  EXPECT_EQ(state("others"), OutputState::kChanged);
}

TEST_F(OutputStateTest, Damaged) {
  folder_.write("a.png", "123");
  journal("done", "mine", 4);
  EXPECT_EQ(state(), OutputState::kMissing);
  EXPECT_EQ(state("mine"), OutputState::kMissing);
}

TEST_F(OutputStateTest, NotInTheJournal) {
  folder_.write("a.png", "1234");
  EXPECT_EQ(state(), OutputState::kForeign);
  EXPECT_EQ(state("mine"), OutputState::kDone);
  EXPECT_EQ(state("others"), OutputState::kChanged);
}

TEST_F(OutputStateTest, KilledBetweenPictureAndLine) {
  folder_.write("a.png", "1234");
  journal("started", "others");
  EXPECT_EQ(state(), OutputState::kChanged);
  journal("started", "mine");
  EXPECT_EQ(state(), OutputState::kMissing) << "without a record it cannot be told from a stranger";
  EXPECT_EQ(state("mine"), OutputState::kDone);
}

TEST_F(OutputStateTest, KilledWhileOneMadeWithOtherSettingsWasReplaced) {
  folder_.write("a.png", "1234");
  journal("done", "others", 4);
  journal("started", "mine");
  EXPECT_EQ(state("mine"), OutputState::kDone) << "replaced already, by one of the same size";
  EXPECT_EQ(state("others"), OutputState::kChanged);
  folder_.write("a.png", "12345");
  EXPECT_EQ(state("mine"), OutputState::kDone);
  EXPECT_EQ(state(), OutputState::kMissing);
  journal("started", "thirds");
  EXPECT_EQ(state(), OutputState::kChanged);
}

TEST_F(OutputStateTest, NoPicture) {
  std::filesystem::create_directory(folder_ / "a.png");
  EXPECT_EQ(state(), OutputState::kForeign);
  EXPECT_EQ(output_state(journal_, folder_.path(), "journal.jsonl/a.png", "mine",
                         [](const auto&) { return std::nullopt; }),
            OutputState::kMissing);
  EXPECT_EQ(asked_, 0);
}

}  // namespace
}  // namespace steadyflux
