// What people type for a file that counts more or less: "style.safetensors" or
// "style.safetensors:0.8".
#pragma once

#include <filesystem>
#include <string>

namespace steadyflux {

struct ScaledFile {
  std::filesystem::path path;
  double scale = 1.0;  // finite; may be negative
};

// A ":number" at the end is the scale, unless a file of the whole name exists. Does not look
// whether the path itself exists. Throws Error{kUsage} for an empty path or a scale that is no
// number; `what` and `example` are for its text: "LoRA", "style.safetensors:0.8".
ScaledFile parse_scaled_file(const std::string& text, const char* what, const char* example);

}  // namespace steadyflux
