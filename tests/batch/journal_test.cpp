// What is in a journal, whatever state its file is in.
#include "batch/journal.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "batch/journal_lines.h"
#include "expect_error.h"
#include "temp_folder.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

TEST(Journal, IsMadeAndReadAgain) {
  TempFolder folder;
  {
    Journal journal = Journal::open(folder.path());
    EXPECT_EQ(journal.path(), folder / kJournalName);
    EXPECT_EQ(journal.find("a.png"), nullptr);
    journal.append(done_line("a.png", "one", 1));
    const JournalEntry* first = journal.find("a.png");
    ASSERT_NE(first, nullptr);
    json failed = journal_line("failed", "a.png");
    failed["error"] = "no memory";
    journal.append(failed);
    journal.append(done_line("sub/b.png", "two", 2));
    journal.append(done_line("a.png", "three", std::int64_t{1} << 40));
    EXPECT_EQ(first->settings, "one") << "given out before";
    EXPECT_EQ(journal.find("a.png")->settings, "three");
  }
  EXPECT_EQ(parsed_lines(folder).size(), 4u);
  const Journal journal = Journal::open(folder.path());
  EXPECT_TRUE(journal.warnings().empty());
  const std::vector<const JournalEntry*> done = journal.done();
  ASSERT_EQ(done.size(), 2u);
  EXPECT_EQ(done[0]->output, "a.png");
  EXPECT_EQ(done[0]->settings, "three");
  EXPECT_EQ(done[0]->bytes, std::int64_t{1} << 40);
  EXPECT_EQ(done[0]->all["prompt"], "a \"red\" apple\n");
  EXPECT_EQ(done[0]->all["pid"], getpid());
  EXPECT_EQ(done[0]->all["version"], 1);
  EXPECT_EQ(done[0]->all["time"].get<std::string>().size(), std::strlen("2026-11-25T13:00:00Z"));
  EXPECT_EQ(done[1]->output, "sub/b.png");
}

TEST(Journal, RefusesWhatIsNoLine) {
  TempFolder folder;
  Journal journal = Journal::open(folder.path());
  const auto refuse = [&](const char* part, const std::function<void(json&)>& spoil) {
    json line = done_line("a.png");
    spoil(line);
    expect_error(ErrorKind::kInternal, part, [&] { journal.append(line); });
  };
  refuse("object", [](json& line) { line = json::array(); });
  refuse("'event'", [](json& line) { line.erase("event"); });
  refuse("'output'", [](json& line) { line["output"] = 1; });
  refuse("'settings'", [](json& line) { line.erase("settings"); });
  refuse("'bytes'", [](json& line) { line["bytes"] = 1.5; });
  refuse("'bytes'", [](json& line) { line["bytes"] = -1; });
  refuse("'bytes'", [](json& line) { line["bytes"] = ~std::uint64_t{0}; });
  refuse("version", [](json& line) { line["version"] = 2; });
  expect_error(ErrorKind::kBadInput, "UTF-8", [&] { journal.append(done_line("\xff.png")); });
  EXPECT_EQ(folder.read(kJournalName), "");
  json line = done_line("a.png");
  line["prompt"] = "\xff";  // what is no text in other fields does no harm
  journal.append(line);
  EXPECT_EQ(parsed_lines(folder).size(), 1u);
}

TEST(Journal, WhereItCannotBe) {
  TempFolder folder;
  fs::create_directory(folder / "folder");
  ASSERT_EQ(mkfifo((folder / "fifo").c_str(), 0600), 0);
  expect_error(ErrorKind::kIo, std::strerror(ENOENT), [&] { Journal::open(folder / "none"); });
  expect_error(ErrorKind::kIo, std::strerror(EISDIR),
               [&] { Journal::open(folder.path(), "folder"); });
  expect_error(ErrorKind::kBadInput, "no file", [&] { Journal::open(folder.path(), "fifo"); });
}

TEST(Journal, DamagedLinesArePassedOver) {
  TempFolder folder;
  const std::string good = done_line("good.png").dump() + "\n";
  json newer = done_line("newer.png");
  newer["version"] = 2;
  json unknown = done_line("unknown.png");
  unknown["event"] = "moved";
  folder.write(kJournalName, good + "{\"event\":\"done\",\"out\n" + "\r\n\n" +      // lines 1-4
                                 std::string("\0\0\0\n", 4) + "\xff\n" + "[1]\n" +  // 5-7
                                 newer.dump() + "\n" + unknown.dump() + "\r\n" +    // 8, 9
                                 done_line("twice.png").dump().insert(1, "\"event\":1,") + "\n" +
                                 done_line("last.png").dump() + "\n");
  const Journal journal = Journal::open(folder.path());
  std::vector<std::string> outputs;
  for (const JournalEntry* entry : journal.done()) outputs.push_back(entry->output);
  EXPECT_EQ(outputs, (std::vector<std::string>{"good.png", "last.png"}));
  const std::vector<std::string> warnings = journal.warnings();
  ASSERT_EQ(warnings.size(), 6u);
  EXPECT_NE(warnings[0].find("journal.jsonl:2: "), std::string::npos) << warnings[0];
  EXPECT_NE(warnings[1].find("journal.jsonl:5: "), std::string::npos) << warnings[1];
  EXPECT_NE(warnings[4].find("journal.jsonl:8: "), std::string::npos) << warnings[4];
  EXPECT_NE(warnings[4].find("version"), std::string::npos) << warnings[4];
  EXPECT_NE(warnings[5].find("1 more"), std::string::npos) << warnings[5];
}

// The last line cut at every byte: it is never an entry before it is complete, and what is appended
// then is read, by this journal and the next.
TEST(Journal, LastLineCutAnywhere) {
  TempFolder folder;
  const std::string first = done_line("first.png").dump() + "\n";
  const std::string last = done_line("last.png").dump() + "\n";
  for (std::size_t cut = 0; cut <= last.size(); ++cut) {
    folder.write(kJournalName, first + last.substr(0, cut));
    Journal journal = Journal::open(folder.path());
    EXPECT_NE(journal.find("first.png"), nullptr);
    EXPECT_EQ(journal.find("last.png") != nullptr, cut == last.size()) << "cut at " << cut;
    journal.append(done_line("next.png"));
    EXPECT_NE(journal.find("next.png"), nullptr);
    const std::vector<json> lines = parsed_lines(folder);
    // Where only the newline lacked, it is put there.
    EXPECT_EQ(lines.size(), cut >= last.size() - 1 ? 3u : 2u) << "cut at " << cut;
    const Journal again = Journal::open(folder.path());
    EXPECT_EQ(again.done().size(), lines.size());
    EXPECT_TRUE(journal.warnings().empty() && again.warnings().empty()) << "cut at " << cut;
  }
}

TEST(Journal, OtherEndsWithoutANewline) {
  TempFolder folder;
  const std::string first = done_line("first.png").dump() + "\n";
  folder.write(kJournalName, first + std::string(100, '\0'));  // as after a power failure
  Journal::open(folder.path()).append(done_line("next.png"));
  EXPECT_EQ(parsed_lines(folder).size(), 2u);
  folder.write(kJournalName, "notes of mine");  // not ours to delete
  Journal::open(folder.path()).append(done_line("next.png"));
  EXPECT_EQ(lines_of(folder.read(kJournalName)).at(0), "notes of mine");
  EXPECT_NE(Journal::open(folder.path()).find("next.png"), nullptr);
}

TEST(Journal, ReadsWhatOthersAppend) {
  TempFolder folder;
  Journal mine = Journal::open(folder.path());
  Journal other = Journal::open(folder.path());
  // Longer than what is read at once, and in many lines.
  for (int i = 0; i < 300; ++i) {
    json line = done_line(std::to_string(i));
    line["prompt"] = std::string(i == 7 ? 1 << 20 : 2000, 'p');
    other.append(line);
  }
  EXPECT_EQ(mine.find("0"), nullptr);
  mine.refresh();
  for (int i = 0; i < 300; ++i) ASSERT_NE(mine.find(std::to_string(i)), nullptr) << i;
  EXPECT_EQ(mine.done().size(), 300u);
  other.append(done_line("300"));
  mine.append(done_line("301"));  // knows the other's line as well
  EXPECT_NE(mine.find("300"), nullptr);
}

TEST(Journal, ShortenedOrRemovedWhileInUse) {
  TempFolder folder;
  Journal journal = Journal::open(folder.path());
  journal.append(done_line("a.png"));
  journal.append(done_line("b.png"));
  fs::resize_file(folder / kJournalName, 0);
  journal.append(done_line("c.png"));
  EXPECT_EQ(journal.find("a.png"), nullptr);
  EXPECT_NE(journal.find("c.png"), nullptr);
  EXPECT_EQ(journal.warnings().size(), 1u);
  fs::remove(folder / kJournalName);
  expect_error(ErrorKind::kIo, "removed", [&] { journal.append(done_line("d.png")); });
  expect_error(ErrorKind::kIo, "removed", [&] { journal.try_claim("d.png"); });
  EXPECT_EQ(folder.entries(), 0);
}

}  // namespace
}  // namespace steadyflux
