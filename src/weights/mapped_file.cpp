#include "weights/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "steadyflux/error.h"

namespace steadyflux {
namespace {

// Closes on every way out; the mapping does not need the descriptor any more.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

Error io_error(const std::filesystem::path& path, const char* what) {
  return Error(ErrorKind::kIo,
               fmt::format("{}: {} failed: {}", path.string(), what, std::strerror(errno)));
}

}  // namespace

MappedFile::MappedFile(std::filesystem::path path, const std::byte* data, std::size_t size)
    : path_(std::move(path)), data_(data), size_(size) {}

MappedFile::~MappedFile() { ::munmap(const_cast<std::byte*>(data_), size_); }

void MappedFile::forget(std::span<const std::byte> stretch) const {
  constexpr std::size_t kPage = 4096;
  const auto begin = static_cast<std::size_t>(stretch.data() - data_);
  const auto first_page = begin / kPage * kPage;
  ::madvise(const_cast<std::byte*>(data_) + first_page, begin + stretch.size() - first_page,
            MADV_DONTNEED);
}

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
  // O_NONBLOCK: opening a fifo must not wait for a writer; it has no effect on regular files.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) {
    if (errno == ENOENT || errno == ENOTDIR) {
      throw Error(ErrorKind::kBadInput, fmt::format("{}: file not found", path.string()));
    }
    throw io_error(path, "opening");
  }
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) throw io_error(path, "fstat");
  if (!S_ISREG(info.st_mode)) {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: not a regular file", path.string()));
  }
  if (info.st_size == 0) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: the file is empty; fetch it again", path.string()));
  }
  const auto size = static_cast<std::size_t>(info.st_size);
  // Shared and read-only: the pages are the page cache's own, counted once however often mapped.
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.fd, 0);
  if (address == MAP_FAILED && errno == ENOMEM) {
    throw Error(ErrorKind::kDoesNotFit,
                fmt::format("{}: no address space to map its {} bytes; see ulimit -v",
                            path.string(), size));
  }
  if (address == MAP_FAILED) throw io_error(path, "mmap");
  return std::shared_ptr<const MappedFile>(
      new MappedFile(path, static_cast<const std::byte*>(address), size));
}

}  // namespace steadyflux
