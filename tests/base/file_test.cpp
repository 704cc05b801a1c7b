#include "base/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "expect_error.h"
#include "temp_folder.h"

namespace steadyflux {
namespace {

TEST(ReadTextFile, GivesEveryByte) {
  const TempFolder folder;
  std::string text(200'001, 'x');  // more than one buffer
  text[0] = '\0';
  text[70'000] = '\n';
  text[70'001] = '\r';
  folder.write("text", text);
  folder.write("empty", "");
  EXPECT_EQ(read_text_file(folder / "text"), text);
  EXPECT_EQ(read_text_file(folder / "empty"), "");
}

TEST(ReadTextFile, TheLimitItselfIsAllowed) {
  const TempFolder folder;
  folder.write("text", std::string(100, 'x'));
  EXPECT_EQ(read_text_file(folder / "text", 100).size(), 100u);
  expect_error(ErrorKind::kBadInput, "larger than 99 bytes",
               [&] { read_text_file(folder / "text", 99); });
}

TEST(ReadTextFile, FollowsLinks) {
  const TempFolder folder;
  folder.write("blob", "text");
  std::filesystem::create_symlink("blob", folder / "link");
  std::filesystem::create_symlink("gone", folder / "dangling");
  EXPECT_EQ(read_text_file(folder / "link"), "text");
  expect_error(ErrorKind::kBadInput, "dangling: file not found",
               [&] { read_text_file(folder / "dangling"); });
}

TEST(ReadTextFile, RefusesWhatIsNoFile) {
  const TempFolder folder;
  expect_error(ErrorKind::kBadInput, "not a regular file", [&] { read_text_file(folder.path()); });
  expect_error(ErrorKind::kBadInput, "none: file not found",
               [&] { read_text_file(folder / "none"); });
  ASSERT_EQ(::mkfifo((folder / "fifo").c_str(), 0600), 0);
  expect_error(ErrorKind::kBadInput, "fifo: not a regular file",  // and does not wait for a writer
               [&] { read_text_file(folder / "fifo"); });
}

TEST(ReadTextFile, SaysWhyItMayNotRead) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may read everything";
  const TempFolder folder;
  folder.write("secret", "text");
  std::filesystem::permissions(folder / "secret", std::filesystem::perms::none);
  expect_error(ErrorKind::kIo, "secret: cannot open: Permission denied",
               [&] { read_text_file(folder / "secret"); });
}

TEST(ReadTextFile, SaysWhatTheSystemSays) {
  const TempFolder folder;
  std::filesystem::create_symlink("loop", folder / "loop");
  expect_error(ErrorKind::kIo, "loop: Too many levels of symbolic links",
               [&] { read_text_file(folder / "loop"); });
}

}  // namespace
}  // namespace steadyflux
