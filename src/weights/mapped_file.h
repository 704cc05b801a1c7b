// A read-only memory mapping of a whole file. Tensors made from it without a copy share ownership,
// so the mapping lives exactly as long as something looks at it.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>

namespace steadyflux {

class MappedFile {
 public:
  // Maps `path`. Throws Error: kBadInput if it is missing, empty or not a regular file, kIo if it
  // cannot be read.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

  // The pages of this stretch need not stay in this process (they come back when they are touched):
  // for what was copied from here and is not wanted twice.
  void forget(std::span<const std::byte> stretch) const;

 private:
  MappedFile(std::filesystem::path path, const std::byte* data, std::size_t size);
  std::filesystem::path path_;
  const std::byte* data_;
  std::size_t size_;
};

}  // namespace steadyflux
