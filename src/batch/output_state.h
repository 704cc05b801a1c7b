// Does a picture have to be made, or is it there? A name alone proves nothing: what counts is what
// the journal says, the size of the file, and the settings that are recorded in the picture itself.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "batch/journal.h"

namespace steadyflux {

enum class OutputState {
  kMissing,  // to be made: nothing is there, or what is there was half replaced or damaged
  kDone,     // made with the same settings, and whole
  kChanged,  // made with other settings
  kForeign,  // something that neither the journal nor its own record knows
};

// What is there for `output` with these settings (settings_key()). `recorded_settings` gives the
// key of the settings that are recorded in the picture; it is asked only where the journal does not
// settle it, e.g. after a kill between the picture's rename and its journal line. Throws
// Error{kIo}.
OutputState output_state(
    const Journal& journal, const std::filesystem::path& folder, const std::string& output,
    const std::string& settings,
    const std::function<std::optional<std::string>(const std::filesystem::path&)>&
        recorded_settings);

}  // namespace steadyflux
