// Writing, and above all not being able to. Root passes over permission bits, so places that refuse
// root too are used: /proc, paths below a file, /dev/full.
#include "image/output_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "expect_error.h"
#include "failing_syscall.h"
#include "fork_child.h"
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

// What file systems without O_TMPFILE do.
void refuse_nameless_files() { fail_syscall(SYS_openat, 2, O_TMPFILE & ~O_DIRECTORY, EOPNOTSUPP); }

TEST(WriteFile, WithoutNamelessFiles) {
  TempFolder folder;
  expect_success(fork_child([&] {
    refuse_nameless_files();
    EXPECT_EQ(::open(folder.path().c_str(), O_TMPFILE | O_WRONLY, 0600), -1);
    check_output_path(folder / "a.png");
    EXPECT_EQ(folder.entries(), 0);
    write_file_atomically(folder / "a.png", bytes_of("one"));
    EXPECT_EQ(folder.read("a.png"), "one");
    chmod((folder / "a.png").c_str(), 0640);
    write_file_atomically(folder / "a.png", bytes_of("second"));
    EXPECT_EQ(folder.read("a.png"), "second");
    struct stat info {};
    EXPECT_EQ(stat((folder / "a.png").c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0640u);
    expect_error(ErrorKind::kIo, std::strerror(ENOENT),
                 [&] { write_file_atomically(folder / "none/a.png", bytes_of("x")); });
  }));
  EXPECT_EQ(folder.entries(), 1);
}

TEST(WriteFile, NamelessFileThatCannotBeNamed) {
  TempFolder folder;
  expect_success(fork_child([&] {
    // Both ways: through /proc (AT_SYMLINK_FOLLOW) and without it (AT_EMPTY_PATH).
    fail_syscall(SYS_linkat, 4, AT_SYMLINK_FOLLOW | AT_EMPTY_PATH, ENOENT);
    write_file_atomically(folder / "a.png", bytes_of("one"));
    write_file_atomically(folder / "a.png", bytes_of("second"));
  }));
  EXPECT_EQ(folder.read("a.png"), "second");
  EXPECT_EQ(folder.entries(), 1);
}

TEST(WriteFile, NewFilesHaveTheModeOfTheUmask) {
  TempFolder folder;
  const auto write_with_umask = [&](const fs::path& path) {
    const mode_t before = umask(027);
    write_file_atomically(path, bytes_of("x"));
    umask(before);
    struct stat info {};
    EXPECT_EQ(stat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0640u);
  };
  write_with_umask(folder / "a.png");
  expect_success(fork_child([&] {
    refuse_nameless_files();
    write_with_umask(folder / "b.png");
  }));
}

TEST(WriteFile, LinkToNothingIsReplaced) {
  TempFolder folder;
  fs::create_symlink("nothing.png", folder / "link.png");
  write_file_atomically(folder / "link.png", bytes_of("new"));
  EXPECT_FALSE(fs::is_symlink(folder / "link.png"));
  EXPECT_EQ(folder.read("link.png"), "new");
  EXPECT_EQ(folder.entries(), 1);
}

TEST(StaleTemporaries, OnlyThoseWithoutAnOwner) {
  TempFolder folder;
  const std::string mine = ".steadyflux-7-0123456789abcdef.tmp";
  const std::string dead = ".steadyflux-4194304-00000000ffffffff.tmp";
  const std::vector<std::string> others = {".steadyflux-7-0123456789abcde.tmp",
                                           ".steadyflux-7-0123456789abcdef0.tmp",
                                           ".steadyflux--0123456789abcdef.tmp",
                                           ".steadyflux-7a-0123456789abcdef.tmp",
                                           ".steadyflux-7-0123456789ABCDEF.tmp",
                                           ".steadyflux-7.tmp",
                                           ".steadyflux-.tmp",
                                           ".steadyflux-0123456789abcdef.tmp",
                                           "steadyflux-7-0123456789abcdef.tmp",
                                           ".steadyflux-7-0123456789abcdef.tmp.png",
                                           "a.png",
                                           "deeper/" + dead};
  for (const std::string& name : others) folder.write(name, "x");
  folder.write(mine, "x");
  folder.write(dead, "x");
  fs::create_symlink("a.png", folder / ".steadyflux-7-1111111111111111.tmp");
  ASSERT_EQ(mkfifo((folder / ".steadyflux-7-2222222222222222.tmp").c_str(), 0600), 0);
  const int fd = ::open((folder / mine).c_str(), O_WRONLY);
  ASSERT_EQ(flock(fd, LOCK_EX), 0);
  remove_stale_temporaries(folder.path());
  EXPECT_FALSE(fs::exists(folder / dead));
  EXPECT_TRUE(fs::exists(folder / mine));
  for (const std::string& name : others) EXPECT_TRUE(fs::exists(folder / name)) << name;
  EXPECT_TRUE(fs::is_symlink(folder / ".steadyflux-7-1111111111111111.tmp"));
  EXPECT_TRUE(fs::is_fifo(folder / ".steadyflux-7-2222222222222222.tmp"));
  ::close(fd);
  remove_stale_temporaries(folder.path());
  EXPECT_FALSE(fs::exists(folder / mine));
  remove_stale_temporaries(folder / "none");  // not an error
}

// Cleaning while others write: nothing that is alive is taken from them, whichever way they write.
TEST(StaleTemporaries, WritersAreNotDisturbed) {
  TempFolder folder;
  constexpr int kFiles = 100;
  const auto write = [&](int writer) {
    for (int i = 0; i < kFiles; ++i) {
      const std::string name = std::to_string(writer) + ".png";
      write_file_atomically(folder / name, bytes_of(std::to_string(i)));
      EXPECT_EQ(folder.read(name), std::to_string(i));
    }
  };
  std::vector<pid_t> writers;
  for (int writer = 0; writer < 4; ++writer) {
    writers.push_back(fork_child([&, writer] {
      if (writer % 2 == 1) refuse_nameless_files();
      write(writer);
    }));
  }
  const pid_t cleaner = fork_child([&] {
    while (true) remove_stale_temporaries(folder.path());
  });
  for (const pid_t writer : writers) expect_success(writer);
  kill_child(cleaner);
  EXPECT_EQ(folder.entries(), 4);
}

// SIGKILL at random moments: every file is whole, and what is left is known for what it is.
TEST(StaleTemporaries, AfterKills) {
  TempFolder folder;
  constexpr int kKills = 40;
  constexpr std::size_t kSize = 200000;  // several writes' worth of time
  std::mt19937 random(1);
  int left = 0;
  for (int round = 0; round < kKills; ++round) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const pid_t writer = fork_child([&] {
      if (round % 2 == 1) refuse_nameless_files();
      for (int i = 0;; ++i) {
        const std::vector<std::uint8_t> bytes(kSize, static_cast<std::uint8_t>('a' + i % 26));
        write_file_atomically(folder / (std::to_string(i % 5) + ".png"), bytes);
        if (i == 0) {
          EXPECT_EQ(::write(ends[1], "x", 1), 1);
        }
      }
    });
    ::close(ends[1]);
    char started = 0;
    EXPECT_EQ(::read(ends[0], &started, 1), 1);
    ::close(ends[0]);
    usleep(static_cast<useconds_t>(random() % 3000));
    kill_child(writer);
    for (const auto& entry : fs::directory_iterator(folder.path())) {
      left += entry.path().extension() == ".tmp" ? 1 : 0;
    }
    remove_stale_temporaries(folder.path());
    for (const auto& entry : fs::directory_iterator(folder.path())) {
      EXPECT_EQ(entry.path().extension(), ".png") << entry.path();
      const std::string text = folder.read(entry.path().filename());
      EXPECT_EQ(text, std::string(kSize, text.empty() ? '?' : text[0])) << entry.path();
    }
  }
  EXPECT_GT(left, 0) << "no kill left a temporary file: the test shows nothing";
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
