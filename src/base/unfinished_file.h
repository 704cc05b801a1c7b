// A file that gets its name when it is complete: no reader sees half of it. It is locked while it
// is written, so that others can tell it from what a killed process left behind.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

namespace steadyflux {

class UnfinishedFile {
 public:
  // kMany: all may write the same target, the last one's stays. kOne: the file's name is made of
  // the target's, and whoever comes while it is there is refused.
  enum class Writers { kMany, kOne };

  // Made in `folder`, for `target` on the same file system, which all messages name; `prefix` is
  // what its own name begins with. Throws Error{kIo}, as do the others.
  UnfinishedFile(const std::filesystem::path& folder, std::filesystem::path target, mode_t mode,
                 std::string_view prefix, Writers writers = Writers::kMany);
  ~UnfinishedFile();  // removes it, unless it was finished
  UnfinishedFile(const UnfinishedFile&) = delete;
  UnfinishedFile& operator=(const UnfinishedFile&) = delete;

  // At the end.
  void write(std::span<const std::byte> bytes);
  // At the beginning, over what was written there before.
  void rewrite_start(std::span<const std::byte> bytes);
  // Empty again.
  void restart();
  // Renames it to the target. `durable`: both survive a power failure from then on.
  void finish(bool durable);

  // Removes the files in `folder` with this prefix that no process writes any more. Does not throw.
  static void remove_abandoned(const std::filesystem::path& folder, std::string_view prefix);

 private:
  void open(const std::filesystem::path& temporary, mode_t mode);

  std::filesystem::path target_;
  std::filesystem::path temporary_;  // empty: finished
  int fd_ = -1;
};

// A folder and those it lies in, for this user only; nothing happens if it is there. Throws
// Error{kIo}.
void make_private_folder(const std::filesystem::path& folder);

}  // namespace steadyflux
