// What a batch shows of all its pictures at the end: a contact sheet and a gallery, if asked for.
#pragma once

#include <vector>

#include "cli/batch_items.h"
#include "cli/console.h"

namespace steadyflux::cli {

// An overview must not take the place of a picture: throws Error{kUsage}.
void check_overviews(const BatchJob& job, const std::vector<BatchItem>& items);

// Of the pictures that are there.
void write_overviews(const BatchJob& job, const std::vector<BatchItem>& items, Console& console);

}  // namespace steadyflux::cli
