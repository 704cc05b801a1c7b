#include "image/output_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>
#include <string>
#include <system_error>
#include <utility>

#include "steadyflux/error.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

Error io_error(const fs::path& path, const char* what, int error) {
  return Error(ErrorKind::kIo, fmt::format("{}: {}: {}", path.string(), what,
                                           std::generic_category().message(error)));
}

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

void write_all(int fd, std::span<const std::uint8_t> bytes, const fs::path& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written >= 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    } else if (errno == EAGAIN) {  // someone made this pipe non-blocking: wait until it drains
      pollfd ready{.fd = fd, .events = POLLOUT, .revents = 0};
      if (::poll(&ready, 1, -1) < 0 && errno != EINTR) throw io_error(path, "cannot write", errno);
    } else if (errno != EINTR) {
      throw io_error(path, "cannot write", errno);
    }
  }
}

void write_straight(const fs::path& path, std::span<const std::uint8_t> bytes) {
  const SigpipeBlocked blocked;
  FileDescriptor fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (fd.get() < 0) throw io_error(path, "cannot open for writing", errno);
  write_all(fd.get(), bytes, path);
  if (const int error = fd.close()) throw io_error(path, "cannot write", error);
}

// The length of the temporary name does not depend on that of the target, which may be at the
// limit.
std::string temporary_name() {
  std::random_device random;
  return fmt::format(".steadyflux-{}-{:08x}{:08x}.tmp", ::getpid(), random(), random());
}

// fsync of a folder makes the rename durable; file systems that cannot do it say EINVAL.
void sync_folder(const fs::path& folder, const fs::path& path) {
  const FileDescriptor fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0) return;  // a folder may be writable and not readable
  if (::fsync(fd.get()) != 0 && errno != EINVAL && errno != ENOTSUP && errno != EROFS) {
    throw io_error(path, "cannot flush its folder to the disk", errno);
  }
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
  const fs::path probe = folder / temporary_name();
  const FileDescriptor fd(::open(probe.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (fd.get() < 0) throw io_error(path, "its folder cannot be written to", errno);
  const TemporaryName removed(probe);
}

void write_file_atomically(const fs::path& path, std::span<const std::uint8_t> bytes) {
  struct stat info {};
  mode_t mode = 0666;  // less the umask, as for any new file
  fs::path target = path;
  if (::stat(path.c_str(), &info) == 0) {
    if (!S_ISREG(info.st_mode)) return write_straight(path, bytes);
    mode = info.st_mode & 0777;
    target = resolved(path);
  } else if (errno != ENOENT) {
    throw io_error(path, "cannot be written", errno);
  }
  const fs::path folder = parent_of(target);
  const fs::path temporary = folder / temporary_name();
  FileDescriptor fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
  if (fd.get() < 0) throw io_error(path, "cannot make a file in its folder", errno);
  TemporaryName name(temporary);
  write_all(fd.get(), bytes, path);
  if (::fsync(fd.get()) != 0) throw io_error(path, "cannot flush to the disk", errno);
  if (const int error = fd.close()) throw io_error(path, "cannot write", error);
  if (::rename(temporary.c_str(), target.c_str()) != 0) {
    throw io_error(path, "cannot give the finished file its name", errno);
  }
  name.keep();
  sync_folder(folder, path);
}

void write_stdout(std::span<const std::uint8_t> bytes) {
  const SigpipeBlocked blocked;
  write_all(STDOUT_FILENO, bytes, "standard output");
}

}  // namespace steadyflux
