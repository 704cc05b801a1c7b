// The JSON lines in which a batch answers for its pictures.
#pragma once

#include <filesystem>

#include "cli/batch_items.h"
#include "cli/json_output.h"
#include "steadyflux/error.h"

namespace steadyflux::cli {

// Of a picture that is there; `folder`: of the batch.
Json batch_answer(const BatchItem& item, const std::filesystem::path& folder);

// Of one that could not be made.
Json batch_error_answer(const BatchItem& item, const Error& error);

}  // namespace steadyflux::cli
