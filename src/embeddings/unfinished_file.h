// A file that gets its name when it is complete: no reader sees half of it. It is locked while it
// is written, so that others can tell it from what a killed process left behind.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace steadyflux {

class UnfinishedFile {
 public:
  // Made in `folder`, for `target` on the same file system, which all messages name. Throws
  // Error{kIo}, as do the others.
  UnfinishedFile(const std::filesystem::path& folder, std::filesystem::path target, mode_t mode);
  ~UnfinishedFile();  // removes it, unless it was finished
  UnfinishedFile(const UnfinishedFile&) = delete;
  UnfinishedFile& operator=(const UnfinishedFile&) = delete;

  // At the end.
  void write(std::span<const std::byte> bytes);
  // At the beginning, over what was written there before.
  void rewrite_start(std::span<const std::byte> bytes);
  // Renames it to the target. `durable`: both survive a power failure from then on.
  void finish(bool durable);

  // Removes the files of this kind in `folder` that no process writes any more. Does not throw.
  static void remove_abandoned(const std::filesystem::path& folder);

 private:
  void open(const std::filesystem::path& folder, mode_t mode);

  std::filesystem::path target_;
  std::filesystem::path temporary_;  // empty: finished
  int fd_ = -1;
};

// A folder and those it lies in, for this user only; nothing happens if it is there. Throws
// Error{kIo}.
void make_private_folder(const std::filesystem::path& folder);

}  // namespace steadyflux
