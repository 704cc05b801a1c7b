#include "base/unfinished_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <random>
#include <string>
#include <system_error>
#include <utility>

#include "base/file_identity.h"
#include "base/file_io.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSuffix = ".tmp";
// Where files cannot be locked, one that was not written to for so long is taken as abandoned.
constexpr std::chrono::hours kAbandonedAfter{24};

std::string random_digits() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}", random(), random());
}

// The same for all who write this target: a hash, as its name may itself be as long as names can
// be.
std::string digits_of(const fs::path& target) {
  Fnv1a hash;
  hash.add(target.filename().string());
  return fmt::format("{:016x}", hash.value());
}

bool is_ours(const fs::path& path, std::string_view prefix) {
  return path.filename().string().starts_with(prefix) && path.extension() == kSuffix;
}

int lock(int fd, int how) {
  int result = 0;
  do {
    result = ::flock(fd, how);
  } while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : errno;
}

// Is what `fd` has open still found there? It may have got its final name since it was opened, and
// another process a file of its own under this one.
bool is_at(const fs::path& path, int fd) {
  struct stat opened {
  }, there{};
  return ::fstat(fd, &opened) == 0 && ::lstat(path.c_str(), &there) == 0 &&
         opened.st_dev == there.st_dev && opened.st_ino == there.st_ino;
}

bool is_old(const fs::path& path) {
  std::error_code error;
  const auto written = fs::last_write_time(path, error);
  return !error && fs::file_time_type::clock::now() - written > kAbandonedAfter;
}

}  // namespace

UnfinishedFile::UnfinishedFile(const fs::path& folder, fs::path target, mode_t mode,
                               std::string_view prefix, Writers writers)
    : target_(std::move(target)) {
  // Whoever cleans up may come between the making of a file and its lock: then the file has lost
  // its name, and another is made. That this happens ten times in a row is out of the question.
  for (int i = 0; i < 10; ++i) {
    const auto digits = writers == Writers::kOne ? digits_of(target_) : random_digits();
    open(folder / fmt::format("{}{}{}", prefix, digits, kSuffix), mode);
    struct stat info {};
    if (lock(fd_, LOCK_EX) != 0 || ::fstat(fd_, &info) != 0 || info.st_nlink > 0) return;
    ::close(std::exchange(fd_, -1));
  }
  throw io_error(target_, "cannot keep a file in its folder", EBUSY);
}

void UnfinishedFile::open(const fs::path& temporary, mode_t mode) {
  fd_ = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  if (fd_ < 0 && errno == EEXIST) {
    throw Error(ErrorKind::kIo,
                fmt::format("{}: another process is writing it; wait for that one, or remove {} if "
                            "there is none",
                            target_.string(), temporary.string()));
  }
  if (fd_ < 0) throw io_error(target_, "cannot make a file in its folder", errno);
  temporary_ = temporary;
}

UnfinishedFile::~UnfinishedFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
  if (fd_ >= 0) ::close(fd_);
}

void UnfinishedFile::write(std::span<const std::byte> bytes) { write_all(fd_, bytes, target_); }

void UnfinishedFile::rewrite_start(std::span<const std::byte> bytes) {
  if (::lseek(fd_, 0, SEEK_SET) != 0) throw io_error(target_, "cannot write", errno);
  write_all(fd_, bytes, target_);
}

void UnfinishedFile::restart() {
  if (::ftruncate(fd_, 0) != 0 || ::lseek(fd_, 0, SEEK_SET) != 0) {
    throw io_error(target_, "cannot write", errno);
  }
}

void UnfinishedFile::finish(bool durable) {
  if (durable && ::fsync(fd_) != 0) throw io_error(target_, "cannot flush to the disk", errno);
  // Renamed before it is closed, and with that unlocked. Some file systems tell of a full disk only
  // when a file is closed: of a durable one they have told by now, and readers notice in others.
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) {
    throw io_error(target_, "cannot give the finished file its name", errno);
  }
  temporary_.clear();
  if (::close(std::exchange(fd_, -1)) != 0) throw io_error(target_, "cannot write", errno);
  if (!durable) return;
  if (const int error = sync_folder(target_.has_parent_path() ? target_.parent_path() : ".")) {
    throw io_error(target_, "cannot flush its folder to the disk", error);
  }
}

void UnfinishedFile::remove_abandoned(const fs::path& folder, std::string_view prefix) {
  std::error_code error;
  fs::directory_iterator entry(folder, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    const fs::path& path = entry->path();
    if (!is_ours(path, prefix)) continue;
    // O_NONBLOCK: whatever else may have this name, opening it must not wait.
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (fd < 0) continue;
    const int locked = lock(fd, LOCK_EX | LOCK_NB);
    const bool abandoned = locked == 0 || (locked != EWOULDBLOCK && is_old(path));
    if (abandoned && is_at(path, fd)) ::unlink(path.c_str());
    ::close(fd);
  }
}

void make_private_folder(const fs::path& folder) {
  std::error_code error;
  if (fs::is_directory(folder, error)) return;
  if (folder.has_parent_path() && folder.parent_path() != folder) {
    make_private_folder(folder.parent_path());
  }
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    throw io_error(folder, "the folder cannot be made", errno);
  }
}

}  // namespace steadyflux
