#include "weights/uncached_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "steadyflux/error.h"

namespace steadyflux {
namespace {

constexpr std::size_t kRequest = std::size_t{16} << 20;  // bytes; larger ones are no faster

Error io_error(const std::filesystem::path& path, const char* what) {
  return Error(ErrorKind::kIo,
               fmt::format("{}: {} failed: {}", path.string(), what, std::strerror(errno)));
}

// Some file systems take the flag when opening and refuse the reads. False if it is off already.
bool leave_direct_mode(int fd) {
#if defined(O_DIRECT)
  const int flags = ::fcntl(fd, F_GETFL);
  return flags >= 0 && (flags & O_DIRECT) != 0 && ::fcntl(fd, F_SETFL, flags & ~O_DIRECT) == 0;
#else
  return false;
#endif
}

}  // namespace

std::shared_ptr<const UncachedFile> UncachedFile::open(const std::filesystem::path& path) {
  int fd = -1;
#if defined(O_DIRECT)
  fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
#endif
  if (fd < 0) fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);  // not every file system has it
  if (fd < 0 && errno == ENOENT) {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: file not found", path.string()));
  }
  if (fd < 0) throw io_error(path, "opening");
  return std::shared_ptr<const UncachedFile>(new UncachedFile(path, fd));
}

UncachedFile::~UncachedFile() { ::close(fd_); }

void UncachedFile::read(std::uint64_t offset, std::size_t size, std::size_t needed,
                        std::byte* to) const {
  std::size_t done = 0;
  while (done < needed) {
    const auto at = static_cast<off_t>(offset + done);
    const auto count = ::pread(fd_, to + done, std::min(size - done, kRequest), at);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EINVAL && leave_direct_mode(fd_)) continue;
    if (count < 0) throw io_error(path_, "reading");
    if (count == 0) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{}: became shorter while it was in use: {} bytes at {} are gone",
                              path_.string(), needed - done, offset + done));
    }
    done += static_cast<std::size_t>(count);
    ::posix_fadvise(fd_, at, count, POSIX_FADV_DONTNEED);  // does nothing in direct mode
  }
}

}  // namespace steadyflux
