// --reference, --control-image, and --image with --mask for FLUX.1-Fill: pictures that the model is
// shown in every step.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "memory/largest_size.h"
#include "steadyflux/pipeline.h"

namespace steadyflux::cli {

// The size in which a reference is shown. `which`: "preferred", the one of Kontext's own
// resolutions whose shape is nearest, as diffusers does it, or "own", its own rounded down to
// multiples of 16. Throws Error: kBadInput if the file is no picture, kUsage if `which` is neither.
PictureSides reference_size(const std::filesystem::path& image, const std::string& which);

// `mask` is for kFill. Files are looked at, and their pixels read when they are asked for, resized
// to width x height. Throws Error{kBadInput} if one is no picture.
std::shared_ptr<const ConditionImage> make_condition_image(ConditionImage::Role role,
                                                           const std::filesystem::path& image,
                                                           const std::filesystem::path& mask,
                                                           std::int64_t width, std::int64_t height);

}  // namespace steadyflux::cli
