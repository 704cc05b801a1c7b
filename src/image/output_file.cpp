#include "image/output_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "base/file_io.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

fs::path parent_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

// A symbolic link to a file stays, and what it points to is replaced.
fs::path resolved(const fs::path& path) {
  std::error_code error;
  fs::path target = fs::canonical(path, error);
  if (error) throw io_error(path, "cannot be resolved", error.value());
  return target;
}

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }
  // Some file systems tell of a full disk only now. 0, or errno.
  int close() { return ::close(std::exchange(fd_, -1)) == 0 ? 0 : errno; }

 private:
  int fd_;
};

// Unlinks a temporary file unless it was renamed away.
class TemporaryName {
 public:
  explicit TemporaryName(fs::path path) : path_(std::move(path)) {}
  ~TemporaryName() {
    if (!path_.empty()) ::unlink(path_.c_str());
  }
  TemporaryName(const TemporaryName&) = delete;
  TemporaryName& operator=(const TemporaryName&) = delete;
  void keep() { path_.clear(); }

 private:
  fs::path path_;
};

// With SIGPIPE's default action a reader that goes away would end the program without a word. The
// signal is blocked in this thread, and one that came meanwhile is taken off.
class SigpipeBlocked {
 public:
  SigpipeBlocked() {
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    sigset_t pending;
    sigpending(&pending);
    was_pending_ = sigismember(&pending, SIGPIPE) == 1;
    pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~SigpipeBlocked() {
    sigset_t pending;
    sigpending(&pending);
    int signal = 0;
    if (!was_pending_ && sigismember(&pending, SIGPIPE) == 1) sigwait(&pipe_, &signal);
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  SigpipeBlocked(const SigpipeBlocked&) = delete;
  SigpipeBlocked& operator=(const SigpipeBlocked&) = delete;

 private:
  sigset_t pipe_;
  sigset_t before_;
  bool was_pending_;
};

void write_parts(int fd, FileParts parts, const fs::path& path) {
  for (const auto part : parts) write_all(fd, std::as_bytes(part), path);
}

void write_straight(const fs::path& path, FileParts parts) {
  const SigpipeBlocked blocked;
  FileDescriptor fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (fd.get() < 0) throw io_error(path, "cannot open for writing", errno);
  write_parts(fd.get(), parts, path);
  if (const int error = fd.close()) throw io_error(path, "cannot write", error);
}

constexpr std::string_view kTemporaryPrefix = ".steadyflux-";
constexpr std::string_view kTemporarySuffix = ".tmp";
constexpr std::size_t kRandomDigits = 16;

// .steadyflux-PID-RANDOM.tmp: its length does not depend on that of the target, which may be at the
// limit.
std::string temporary_name() {
  std::random_device random;
  return fmt::format("{}{}-{:08x}{:08x}{}", kTemporaryPrefix, ::getpid(), random(), random(),
                     kTemporarySuffix);
}

bool is_temporary_name(std::string_view name) {
  if (!name.starts_with(kTemporaryPrefix) || !name.ends_with(kTemporarySuffix)) return false;
  if (name.size() <= kTemporaryPrefix.size() + kTemporarySuffix.size()) return false;
  name.remove_prefix(kTemporaryPrefix.size());
  name.remove_suffix(kTemporarySuffix.size());
  const std::size_t dash = name.find('-');
  return dash != 0 && dash != std::string_view::npos && name.size() == dash + 1 + kRandomDigits &&
         name.find_first_not_of("0123456789") == dash &&
         name.find_first_not_of("0123456789abcdef", dash + 1) == std::string_view::npos;
}

// The lock ends with the process, whatever kills it: a temporary file without one has no owner.
// Where a file system has no such locks, nothing is locked, and nothing is ever taken for stale.
void lock_as_owner(int fd) {
  while (::flock(fd, LOCK_EX) != 0 && errno == EINTR) {
  }
}

bool has_no_name(int fd) {
  struct stat info {};
  return ::fstat(fd, &info) == 0 && info.st_nlink == 0;
}

// All of it on the disk. The descriptor stays open, and with it the lock; what some file systems
// say only when a file is closed, they say of a copy as well.
void write_and_flush(int fd, FileParts parts, const fs::path& path) {
  write_parts(fd, parts, path);
  if (::fsync(fd) != 0) throw io_error(path, "cannot flush to the disk", errno);
  FileDescriptor copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (copy.get() < 0) return;
  if (const int error = copy.close()) throw io_error(path, "cannot write", error);
}

// Gives a file made with O_TMPFILE a name that nothing has.
bool link_nameless(int fd, const fs::path& name) {
  const std::string source = fmt::format("/proc/self/fd/{}", fd);
  if (::linkat(AT_FDCWD, source.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0) {
    return true;
  }
  if (errno == EEXIST) return false;
  return ::linkat(fd, "", AT_FDCWD, name.c_str(), AT_EMPTY_PATH) == 0;  // no /proc
}

int open_nameless(const fs::path& folder, mode_t mode) {
  return ::open(folder.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, mode);
}

int open_named(const fs::path& temporary, mode_t mode) {
  return ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
}

void rename_or_throw(const fs::path& temporary, const fs::path& target, const fs::path& path) {
  if (::rename(temporary.c_str(), target.c_str()) != 0) {
    throw io_error(path, "cannot give the finished file its name", errno);
  }
}

// The file has no name until it is complete: nothing can be left of it. False where that is not to
// be had (file systems without O_TMPFILE): the way below tells what is wrong, if anything is.
bool write_nameless(const fs::path& target, FileParts parts, mode_t mode, const fs::path& path) {
  const fs::path folder = parent_of(target);
  const FileDescriptor fd(open_nameless(folder, mode));
  if (fd.get() < 0) return false;
  lock_as_owner(fd.get());
  write_and_flush(fd.get(), parts, path);
  if (link_nameless(fd.get(), target)) return true;
  const fs::path temporary = folder / temporary_name();
  if (!link_nameless(fd.get(), temporary)) return false;
  TemporaryName name(temporary);
  rename_or_throw(temporary, target, path);
  name.keep();
  return true;
}

// False if the temporary file was taken for stale by another process, which can happen between its
// creation and its lock, and on network file systems whose locks do not reach other machines.
bool write_named(const fs::path& target, FileParts parts, mode_t mode, const fs::path& path) {
  const fs::path temporary = parent_of(target) / temporary_name();
  const FileDescriptor fd(open_named(temporary, mode));
  if (fd.get() < 0) throw io_error(path, "cannot make a file in its folder", errno);
  TemporaryName name(temporary);
  lock_as_owner(fd.get());
  if (has_no_name(fd.get())) return false;
  write_and_flush(fd.get(), parts, path);
  if (has_no_name(fd.get())) return false;
  rename_or_throw(temporary, target, path);
  name.keep();
  return true;
}

}  // namespace

PictureFormat picture_format(const fs::path& path) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  if (extension == ".png") return PictureFormat::kPng;
  if (extension == ".jpg" || extension == ".jpeg") return PictureFormat::kJpeg;
  throw Error(ErrorKind::kUsage,
              fmt::format("{}: pictures are written as .png, .jpg or .jpeg, not as '{}'",
                          path.string(), extension));
}

void check_output_path(const fs::path& path) {
  picture_format(path);
  fs::path folder = parent_of(path);
  struct stat info {};
  if (::stat(folder.c_str(), &info) != 0) {
    const int error = errno;
    if (error != ENOENT) throw io_error(path, "cannot be written", error);
    throw Error(ErrorKind::kIo, fmt::format("{}: the folder {} does not exist; make it first",
                                            path.string(), folder.string()));
  }
  if (!S_ISDIR(info.st_mode)) {
    throw Error(ErrorKind::kIo,
                fmt::format("{}: {} is not a folder", path.string(), folder.string()));
  }
  if (::stat(path.c_str(), &info) == 0) {
    if (S_ISDIR(info.st_mode)) {
      throw Error(ErrorKind::kIo,
                  fmt::format("{}: is a folder; give the name of a file", path.string()));
    }
    if (::access(path.c_str(), W_OK) != 0) throw io_error(path, "cannot be written", errno);
    if (!S_ISREG(info.st_mode)) return;
    folder = parent_of(resolved(path));
  } else if (errno != ENOENT) {  // ENAMETOOLONG, ELOOP, ...
    throw io_error(path, "cannot be written", errno);
  }
  if (::access(folder.c_str(), W_OK | X_OK) != 0) {
    throw io_error(path, "its folder cannot be written to", errno);
  }
  // access() believes the permission bits; /proc, some network folders and full disks do not.
  const FileDescriptor nameless(open_nameless(folder, 0600));
  if (nameless.get() >= 0) return;
  const fs::path probe = folder / temporary_name();
  const FileDescriptor fd(open_named(probe, 0600));
  if (fd.get() < 0) throw io_error(path, "its folder cannot be written to", errno);
  const TemporaryName removed(probe);
}

void flush_folder(const fs::path& folder) {
  if (const int error = sync_folder(folder)) {
    throw io_error(folder, "cannot flush the folder to the disk", error);
  }
}

void write_file_atomically(const fs::path& path, std::span<const std::uint8_t> bytes) {
  write_file_atomically(path, FileParts(&bytes, 1));
}

void write_file_atomically(const fs::path& path, FileParts parts) {
  struct stat info {};
  mode_t mode = 0666;  // less the umask, as for any new file
  fs::path target = path;
  if (::stat(path.c_str(), &info) == 0) {
    if (!S_ISREG(info.st_mode)) return write_straight(path, parts);
    mode = info.st_mode & 0777;
    target = resolved(path);
  } else if (errno != ENOENT) {
    throw io_error(path, "cannot be written", errno);
  }
  if (!write_nameless(target, parts, mode, path)) {
    constexpr int kAttempts = 5;
    int attempts = 0;
    while (!write_named(target, parts, mode, path)) {
      if (++attempts == kAttempts) {
        throw io_error(path, "its temporary file is removed by another program", ENOENT);
      }
    }
  }
  flush_folder(parent_of(target));
}

void remove_stale_temporaries(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::path> found;
  for (fs::directory_iterator entry(folder, error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    if (is_temporary_name(entry->path().filename().string())) found.push_back(entry->path());
  }
  for (const fs::path& path : found) {
    constexpr int kFlags = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
    int opened = ::open(path.c_str(), O_RDWR | kFlags);  // network file systems lock only these
    if (opened < 0) opened = ::open(path.c_str(), O_RDONLY | kFlags);
    const FileDescriptor fd(opened);
    struct stat info {};
    if (fd.get() < 0 || ::fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode)) continue;
    // Whoever has renamed the file away meanwhile has left nothing under this name.
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) ::unlink(path.c_str());
  }
}

void write_stdout(std::span<const std::uint8_t> bytes) {
  const SigpipeBlocked blocked;
  write_all(STDOUT_FILENO, std::as_bytes(bytes), "standard output");
}

}  // namespace steadyflux
