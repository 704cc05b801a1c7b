// Files that get their name when they are complete: what is left behind, by whom it is removed, and
// two who write the same.
#include "base/unfinished_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "expect_error.h"
#include "temp_folder.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;
using Writers = UnfinishedFile::Writers;

constexpr const char* kPrefix = ".test-";

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

void write(UnfinishedFile& file, const std::string& text) {
  file.write(std::as_bytes(std::span(text)));
}

class UnfinishedFileTest : public ::testing::Test {
 protected:
  const fs::path& folder() const { return folder_.path(); }
  TempFolder folder_;
};

TEST_F(UnfinishedFileTest, HasItsNameWhenItIsFinished) {
  const auto target = folder_ / "a.txt";
  for (const Writers writers : {Writers::kMany, Writers::kOne}) {
    {
      UnfinishedFile file(folder(), target, 0600, kPrefix, writers);
      write(file, "something else");
      file.restart();
      write(file, "12345");
      const std::string start = "ab";
      file.rewrite_start(std::as_bytes(std::span(start)));
      ASSERT_EQ(names_in(folder()).size(), writers == Writers::kMany ? 1U : 2U);
      EXPECT_TRUE(names_in(folder()).front().starts_with(kPrefix));
      file.finish(false);
    }
    EXPECT_EQ(names_in(folder()), std::vector<std::string>{"a.txt"});
    EXPECT_EQ(read_text_file(target, 100), "ab345");
  }
  { UnfinishedFile file(folder(), folder_ / "b.txt", 0600, kPrefix); }
  EXPECT_EQ(names_in(folder()), std::vector<std::string>{"a.txt"});
}

TEST_F(UnfinishedFileTest, OneWriterAtATime) {
  const auto target = folder_ / (std::string(250, 'x') + ".txt");  // no room for more in its name
  UnfinishedFile first(folder(), target, 0600, kPrefix, Writers::kOne);
  write(first, "first");
  UnfinishedFile::remove_abandoned(folder(), kPrefix);  // it is not
  expect_error(ErrorKind::kIo, "another process is writing it",
               [&] { UnfinishedFile second(folder(), target, 0600, kPrefix, Writers::kOne); });
  // Who was refused removes nothing; other targets are free.
  UnfinishedFile other(folder(), folder_ / "b.txt", 0600, kPrefix, Writers::kOne);
  first.finish(true);
  EXPECT_EQ(read_text_file(target, 100), "first");
  UnfinishedFile again(folder(), target, 0600, kPrefix, Writers::kOne);
}

TEST_F(UnfinishedFileTest, RemovesWhatIsAbandonedAndNothingElse) {
  for (const char* name : {".test-1.tmp", ".test-2.tmp", ".test-3.txt", ".other-4.tmp"}) {
    folder_.write(name, "");
  }
  const int held = ::open((folder_ / ".test-2.tmp").c_str(), O_RDONLY);
  ASSERT_EQ(::flock(held, LOCK_EX), 0);
  UnfinishedFile::remove_abandoned(folder(), kPrefix);
  EXPECT_EQ(names_in(folder()),
            (std::vector<std::string>{".other-4.tmp", ".test-2.tmp", ".test-3.txt"}));
  ::close(held);
  UnfinishedFile::remove_abandoned(folder(), kPrefix);
  EXPECT_EQ(names_in(folder()), (std::vector<std::string>{".other-4.tmp", ".test-3.txt"}));
}

}  // namespace
}  // namespace steadyflux
