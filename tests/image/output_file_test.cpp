// Writing, and above all not being able to. Root passes over permission bits, so places that refuse
// root too are used: /proc, paths below a file, /dev/full.
#include "image/output_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "expect_error.h"
#include "image/file_names.h"
#include "temp_folder.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

std::vector<std::uint8_t> bytes_of(const std::string& text) { return {text.begin(), text.end()}; }

TEST(PictureFormat, ByExtension) {
  for (const char* name : {"a.png", "a.PNG", "x/y.Png", ".hidden.png"}) {
    EXPECT_EQ(picture_format(name), PictureFormat::kPng) << name;
  }
  for (const char* name : {"a.jpg", "a.JPEG", "a.b.jpeg"}) {
    EXPECT_EQ(picture_format(name), PictureFormat::kJpeg) << name;
  }
  for (const char* name : {"", "a", ".png", "a.webp", "a.png.txt", "png", "a.", "a.png/"}) {
    expect_error(ErrorKind::kUsage, ".png, .jpg or .jpeg", [&] { picture_format(name); });
  }
}

TEST(CheckOutputPath, AcceptsAndLeavesNothing) {
  TempFolder folder;
  folder.write("old.png", "old");
  check_output_path(folder / "new.png");
  check_output_path(folder / "old.png");
  EXPECT_EQ(folder.entries(), 1);
  EXPECT_EQ(folder.read("old.png"), "old");
}

TEST(CheckOutputPath, Refuses) {
  TempFolder folder;
  folder.write("file", "x");
  fs::create_directory(folder / "folder.png");
  const auto refuse = [](const fs::path& path, const std::string& part) {
    expect_error(ErrorKind::kIo, part, [&] { check_output_path(path); });
  };
  refuse(folder / "none/a.png", "does not exist");
  EXPECT_FALSE(fs::exists(folder / "none"));
  refuse(folder / "file/a.png", "not a folder");
  refuse(folder / "file/deeper/a.png", std::strerror(ENOTDIR));
  refuse(folder / "folder.png", "is a folder");
  refuse(folder / (std::string(300, 'n') + ".png"), std::strerror(ENAMETOOLONG));
  fs::create_symlink("loop.png", folder / "loop.png");
  refuse(folder / "loop.png", std::strerror(ELOOP));
  refuse("/proc/a.png", "/proc/a.png");
  expect_error(ErrorKind::kUsage, "a.gif", [&] { check_output_path(folder / "none/a.gif"); });
}

TEST(CheckOutputPath, RespectsPermissions) {
  if (geteuid() == 0) GTEST_SKIP() << "root passes over permission bits";
  TempFolder folder;
  folder.write("locked/file", "x");
  fs::permissions(folder / "locked", fs::perms::owner_read | fs::perms::owner_exec);
  expect_error(ErrorKind::kIo, std::strerror(EACCES),
               [&] { check_output_path(folder / "locked/a.png"); });
  fs::permissions(folder / "locked", fs::perms::owner_all);
}

TEST(WriteFile, NewAndReplaced) {
  TempFolder folder;
  write_file_atomically(folder / "a.png", bytes_of("one"));
  EXPECT_EQ(folder.read("a.png"), "one");
  chmod((folder / "a.png").c_str(), 0600);
  write_file_atomically(folder / "a.png", bytes_of("second"));
  EXPECT_EQ(folder.read("a.png"), "second");
  struct stat info {};
  ASSERT_EQ(stat((folder / "a.png").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_EQ(folder.entries(), 1);
}

TEST(WriteFile, LinkStays) {
  TempFolder folder;
  folder.write("real/a.png", "old");
  fs::create_symlink("real/a.png", folder / "link.png");
  write_file_atomically(folder / "link.png", bytes_of("new"));
  EXPECT_TRUE(fs::is_symlink(folder / "link.png"));
  EXPECT_EQ(folder.read("real/a.png"), "new");
}

TEST(WriteFile, NameOfTheGreatestLength) {
  TempFolder folder;
  const std::string name = std::string(251, 'n') + ".png";  // NAME_MAX is 255
  write_file_atomically(folder / name, bytes_of("x"));
  EXPECT_EQ(folder.read(name), "x");
}

TEST(WriteFile, FailuresLeaveNothing) {
  TempFolder folder;
  folder.write("file", "x");
  fs::create_directory(folder / "folder.png");
  for (const fs::path& path :
       {folder / "none/a.png", folder / "file/a.png", folder / "folder.png",
        fs::path("/proc/a.png"), folder / (std::string(300, 'n') + ".png")}) {
    expect_error(ErrorKind::kIo, path.string(),
                 [&] { write_file_atomically(path, bytes_of("x")); });
  }
  EXPECT_EQ(folder.entries(), 2);
}

TEST(WriteFile, StraightIntoDevices) {
  write_file_atomically("/dev/null", bytes_of("x"));
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  TempFolder folder;
  fs::create_symlink("/dev/full", folder / "full.png");
  check_output_path(folder / "full.png");
  expect_error(ErrorKind::kIo, std::strerror(ENOSPC),
               [&] { write_file_atomically(folder / "full.png", bytes_of("x")); });
}

TEST(WriteFile, IntoAFifo) {
  TempFolder folder;
  ASSERT_EQ(mkfifo((folder / "pipe.png").c_str(), 0600), 0);
  check_output_path(folder / "pipe.png");
  const std::string text(1 << 20, 'p');  // more than a pipe holds: partial writes
  std::string read;
  std::thread reader([&] { read = folder.read("pipe.png"); });
  write_file_atomically(folder / "pipe.png", bytes_of(text));
  reader.join();
  EXPECT_EQ(read, text);
}

// The file may not grow beyond 4 KiB: a disk that becomes full in the middle, on any machine.
TEST(WriteFile, StoppedInTheMiddle) {
  TempFolder folder;
  folder.write("a.png", "old");
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{.rlim_cur = 4096, .rlim_max = before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  expect_error(ErrorKind::kIo, std::strerror(EFBIG), [&] {
    write_file_atomically(folder / "a.png", std::vector<std::uint8_t>(10000, 'n'));
  });
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(folder.read("a.png"), "old");
  EXPECT_EQ(folder.entries(), 1);
}

TEST(WriteFile, DiskFull) {
  TempFolder folder;
  fs::create_directory(folder / "small");
  if (mount("tmpfs", (folder / "small").c_str(), "tmpfs", 0, "size=64k") != 0) {
    GTEST_SKIP() << "no right to mount a small tmpfs: " << std::strerror(errno);
  }
  expect_error(ErrorKind::kIo, std::strerror(ENOSPC), [&] {
    write_file_atomically(folder / "small/a.png", std::vector<std::uint8_t>(1 << 20, 'n'));
  });
  EXPECT_TRUE(fs::is_empty(folder / "small"));
  EXPECT_EQ(umount((folder / "small").c_str()), 0);
}

// Runs `action` with standard output going to `fd`.
void with_stdout(int fd, const std::function<void()>& action) {
  fflush(stdout);
  const int saved = dup(STDOUT_FILENO);
  dup2(fd, STDOUT_FILENO);
  action();
  dup2(saved, STDOUT_FILENO);
  close(saved);
}

TEST(WriteStdout, WholeThroughANonBlockingPipe) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_NONBLOCK), 0);
  const std::string text(1 << 20, 'o');
  std::string read;
  std::thread reader([&] {
    char buffer[4096];
    while (true) {
      const ssize_t size = ::read(ends[0], buffer, sizeof(buffer));
      if (size > 0) read.append(buffer, static_cast<std::size_t>(size));
      if (size == 0) break;
      if (size < 0) usleep(100);
    }
  });
  with_stdout(ends[1], [&] { write_stdout(bytes_of(text)); });
  close(ends[1]);
  reader.join();
  close(ends[0]);
  EXPECT_EQ(read, text);
}

TEST(WriteStdout, ReaderGone) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  close(ends[0]);
  with_stdout(ends[1], [] {
    expect_error(ErrorKind::kIo, std::strerror(EPIPE), [] { write_stdout(bytes_of("x")); });
  });
  close(ends[1]);
}

TEST(NumberedPath, SortsAndKeepsTheExtension) {
  EXPECT_EQ(numbered_path("out.png", 0, 1), "out.png");
  EXPECT_EQ(numbered_path("out.png", 0, 4), "out-1.png");
  EXPECT_EQ(numbered_path("d.x/out.jpg", 3, 4), "d.x/out-4.jpg");
  EXPECT_EQ(numbered_path("/a/out.v2.PNG", 8, 10), "/a/out.v2-09.PNG");
  EXPECT_EQ(numbered_path("out.png", 99, 100), "out-100.png");
}

}  // namespace
}  // namespace steadyflux
