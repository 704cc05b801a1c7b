// Damaged tokenizer files. The first byte picks the file that the rest of the input becomes; the
// only way out besides success is Error. The prompt has what takes the less usual paths: marks, a
// ligature, special tokens, several kinds of white space.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "steadyflux/error.h"
#include "tokenizer/clip_tokenizer.h"
#include "tokenizer/t5_tokenizer.h"

namespace {

const std::filesystem::path& folder() {
  static const std::filesystem::path path = [] {
    std::string name = (std::filesystem::temp_directory_path() / "steadyflux-fuzz-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) std::abort();
    return std::filesystem::path(name);
  }();
  return path;
}

void write(const char* name, const char* data, std::size_t size) {
  std::ofstream(folder() / name, std::ios::binary).write(data, static_cast<std::streamsize>(size));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const char* rest = reinterpret_cast<const char*>(data) + 1;
  constexpr const char* kFiles[] = {"tokenizer.json", "spiece.model", "vocab.json", "merges.txt",
                                    "tokenizer_config.json"};
  for (const char* file : kFiles) std::filesystem::remove(folder() / file);
  constexpr char kVocab[] =
      R"({"a":0,"a</w>":1,"b":2,"aa":3,"<|endoftext|>":4,"<|startoftext|>":5})";
  write("vocab.json", kVocab, sizeof kVocab - 1);
  write("merges.txt", "a a\n", 4);
  write(kFiles[data[0] % std::size(kFiles)], rest, size - 1);
  for (const auto load : {steadyflux::load_clip_tokenizer, steadyflux::load_t5_tokenizer}) {
    try {
      load(folder(), 50000)
          ->tokenize("aab e\xcc\x81 \xef\xac\x81\xcc\x81 </s><|endoftext|>\xc2\x85 A\xe2\x96\x81z",
                     8);
    } catch (const steadyflux::Error&) {
    }
  }
  return 0;
}
