#include "batch/output_state.h"

#include <sys/stat.h>

#include <cerrno>

#include "base/file_io.h"

namespace steadyflux {

namespace fs = std::filesystem;

OutputState output_state(
    const Journal& journal, const fs::path& folder, const std::string& output,
    const std::string& settings,
    const std::function<std::optional<std::string>(const fs::path&)>& recorded_settings) {
  const fs::path path = folder / output;
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    if (errno == ENOENT || errno == ENOTDIR) return OutputState::kMissing;
    throw io_error(path, "cannot be looked at", errno);
  }
  if (!S_ISREG(info.st_mode)) return OutputState::kForeign;
  const JournalEntry* entry = journal.find(output);
  const bool whole = entry != nullptr && entry->bytes == info.st_size;
  const bool same = entry != nullptr && entry->settings == settings;
  if (whole && same) return OutputState::kDone;

  const std::optional<std::string> recorded = recorded_settings(path);
  if (recorded && *recorded != settings) return OutputState::kChanged;
  // With the same settings in the journal but another size, the file was damaged since.
  if (recorded) return same ? OutputState::kMissing : OutputState::kDone;
  if (whole) return OutputState::kChanged;

  // No record, and a size that the journal does not know: someone who was about to write it may
  // have been killed before they could say that it is done.
  const std::optional<std::string> started = journal.started(output);
  if (started && *started != settings) return OutputState::kChanged;
  return started || entry != nullptr ? OutputState::kMissing : OutputState::kForeign;
}

}  // namespace steadyflux
