// From pixels to a picture file that tells how it was made.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "cli/request.h"
#include "image/metadata.h"
#include "steadyflux/pipeline.h"

namespace steadyflux::cli {

// kept_identity() of the job's model, remembered in the cache unless --no-cache.
std::string model_hash_of(const GenerateJob& job);

// The record of a picture of `request`; its seed is that of the first one.
PictureMetadata describe(const GenerateJob& job, const Request& request, const Pipeline& pipeline,
                         const std::string& model_hash);

// The record with the size that the picture came to have, which may be less than was asked for.
PictureMetadata of_image(PictureMetadata metadata, const Image& image);

// As PNG or JPEG by the extension; "-" is standard output, as PNG. Throws Error{kIo}.
void write_picture(const std::string& output, const PictureMetadata& metadata, const Image& image);

// For --json: "prompt_2", "negative_prompt" and what goes with it, what is said of
// sampling, "loras", "init_image",
// "condition", "progressive" and "tile", where there are any.
void add_inputs(nlohmann::ordered_json& answer, const PictureMetadata& metadata);

// What decides the bytes of a picture, for settings_key(). `any_seed`: whatever was drawn.
nlohmann::json picture_settings(const PictureMetadata& metadata, bool any_seed);

// Those of the record in a picture file; nothing if it has none.
std::optional<nlohmann::json> recorded_settings(const std::filesystem::path& path, bool any_seed);

}  // namespace steadyflux::cli
