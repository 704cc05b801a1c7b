// A component folder with damaged weights. The first byte says what the rest of the input is: the
// one safetensors file, the index of two good shards, or one of two shards of a good index. What is
// handed out must lie inside its file, be as large as its shape says, and be readable to its last
// byte.
#include <cstddef>
#include <cstdint>
#include <string>

#include "steadyflux/error.h"
#include "temp_folder.h"
#include "weights/checkpoint.h"

namespace {

constexpr const char* kIndex =
    R"({"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}})";

std::string one_tensor(const std::string& name) {
  const std::string header =
      "{\"" + name + R"(":{"dtype":"I16","shape":[2],"data_offsets":[0,4]}})";
  return std::string{static_cast<char>(header.size()), 0, 0, 0, 0, 0, 0, 0} + header + "abcd";
}

void check(const steadyflux::TensorView& view) {
  const auto file = view.file->bytes();
  if (view.data < file.data() || view.nbytes > file.size() ||
      view.data - file.data() > static_cast<std::ptrdiff_t>(file.size() - view.nbytes)) {
    __builtin_trap();
  }
  std::size_t expected = steadyflux::item_size(view.dtype);
  for (const std::int64_t side : view.shape) {
    if (side < 0) __builtin_trap();
    expected *= static_cast<std::size_t>(side);
  }
  if (expected != view.nbytes) __builtin_trap();
  volatile unsigned char seen = 0;
  for (std::size_t i = 0; i < view.nbytes; ++i) seen = static_cast<unsigned char>(view.data[i]);
  static_cast<void>(seen);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const TempFolder folder;
  if (size == 0) return 0;
  const std::string input(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto index = folder / "model.safetensors.index.json";
  std::filesystem::remove(folder / "model.safetensors");
  std::filesystem::remove(index);
  if (data[0] % 3 == 0) {
    folder.write("model.safetensors", input);
  } else {
    const bool damaged_index = data[0] % 3 == 1;
    folder.write(index, damaged_index ? input : kIndex);
    folder.write("model-1.safetensors", damaged_index ? one_tensor("a") : input);
    folder.write("model-2.safetensors", one_tensor("b"));
  }
  try {
    const auto checkpoint = steadyflux::Checkpoint::open(folder.path());
    for (const auto& [name, view] : checkpoint.tensors()) {
      if (checkpoint.find(name) != &view) __builtin_trap();
      check(view);
    }
  } catch (const steadyflux::Error&) {
  }
  return 0;
}
