// A cheap name for the content of a model folder, so that a picture can say which weights made it
// and a repetition can notice that they changed. Not a security measure.
#pragma once

#include <filesystem>
#include <string>

namespace steadyflux {

// 16 hexadecimal digits over the relative names and sizes of the folder's model files (.json, .txt,
// .model, .safetensors), the whole content of those up to 1 MiB, and of larger ones 64 KiB at
// each end and 62 pages of 4 KiB between: milliseconds for 24 GB, and the same wherever the folder
// lies. Throws Error: kBadInput if `folder` is no folder, kIo if a file cannot be read.
std::string model_identity(const std::filesystem::path& folder);

}  // namespace steadyflux
