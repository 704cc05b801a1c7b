// Cheap names for the content of model files, so that what was made from them can say so, and a
// change is noticed. Not a security measure.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace steadyflux {

// FNV-1a, 64 bits: http://www.isthe.com/chongo/tech/comp/fnv
class Fnv1a {
 public:
  void add(std::string_view bytes) {
    for (const char c : bytes) {
      state_ = (state_ ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
    }
  }
  std::uint64_t value() const { return state_; }

 private:
  std::uint64_t state_ = 0xcbf29ce484222325ull;
};

// The model files (.json, .txt, .model, .safetensors, .gguf; hidden ones are none) below `folder`,
// as paths relative to it, sorted. Throws Error: kBadInput if `folder` is no folder, kIo if it
// cannot be read.
std::vector<std::filesystem::path> list_model_files(const std::filesystem::path& folder);

// A file under a name that does not depend on where it lies: "vae/config.json".
struct NamedFile {
  std::string name;
  std::filesystem::path path;
};

// 16 hexadecimal digits over the names and sizes of these files, the whole content of
// those up to 1 MiB, and of larger ones 64 KiB at each end and 62 pages of 4 KiB between:
// milliseconds for 24 GB, and the same wherever the folder lies. Throws Error{kIo}.
std::string files_identity(const std::vector<NamedFile>& files);

}  // namespace steadyflux
