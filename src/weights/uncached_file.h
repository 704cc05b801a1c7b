// Reading weights that are streamed again and again: past the page cache. A file larger than memory
// that is read in a circle would push everything out of the cache and never be found there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>

namespace steadyflux {

class UncachedFile {
 public:
  // Offsets, sizes and addresses of reads are multiples of this.
  static constexpr std::size_t kAlignment = 4096;

  // Throws Error: kBadInput if it is missing, kIo if it cannot be opened.
  static std::shared_ptr<const UncachedFile> open(const std::filesystem::path& path);
  ~UncachedFile();
  UncachedFile(const UncachedFile&) = delete;
  UncachedFile& operator=(const UncachedFile&) = delete;

  // Reads at least `needed` and at most `size` bytes from `offset` on into `to`: what is asked for
  // beyond `needed`, to keep to the alignment, may lie behind the end of the file. Throws Error:
  // kIo if reading fails, kBadInput if the file has become shorter. From any thread.
  void read(std::uint64_t offset, std::size_t size, std::size_t needed, std::byte* to) const;

  const std::filesystem::path& path() const { return path_; }

 private:
  UncachedFile(std::filesystem::path path, int fd) : path_(std::move(path)), fd_(fd) {}
  std::filesystem::path path_;
  int fd_;
};

}  // namespace steadyflux
