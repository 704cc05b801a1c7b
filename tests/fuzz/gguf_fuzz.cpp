// Any bytes as a GGUF file. Either an Error that names the file and is fit for a terminal, or views
// that lie inside the file without overlapping, are as large as their shapes say and can be read to
// the last byte, and metadata that is JSON.
#include "weights/gguf.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "steadyflux/error.h"
#include "temp_folder.h"

namespace {

void require(bool condition) {
  if (!condition) __builtin_trap();
}

void check(const steadyflux::TensorView& view, std::vector<bool>& seen) {
  const auto file = view.file->bytes();
  require(view.data >= file.data() && view.nbytes <= file.size());
  const auto begin = static_cast<std::size_t>(view.data - file.data());
  require(begin <= file.size() - view.nbytes);
  const std::int64_t row = view.shape.empty() ? 1 : view.shape.back();
  require(row % steadyflux::item_values(view.dtype) == 0);
  std::size_t values = 1;
  for (const std::int64_t side : view.shape) {
    require(side > 0);
    values *= static_cast<std::size_t>(side);
  }
  const auto blocks = values / static_cast<std::size_t>(steadyflux::item_values(view.dtype));
  require(blocks * steadyflux::item_size(view.dtype) == view.nbytes);
  volatile unsigned char last = 0;
  for (std::size_t i = 0; i < view.nbytes; ++i) {
    require(!seen[begin + i]);
    seen[begin + i] = true;
    last = static_cast<unsigned char>(view.data[i]);
  }
  static_cast<void>(last);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const TempFolder folder;
  std::filesystem::remove(folder / "x.gguf");
  folder.write("x.gguf", std::string(reinterpret_cast<const char*>(data), size));
  try {
    const auto file = steadyflux::GgufFile::open(folder / "x.gguf");
    require(steadyflux::is_gguf(std::as_bytes(std::span(data, size))));
    require(file.metadata.is_object());
    static_cast<void>(file.metadata.dump());  // throws where text is not UTF-8
    std::vector<bool> seen(size);
    for (const auto& [name, view] : file.tensors) check(view, seen);
  } catch (const steadyflux::Error& error) {
    require(error.kind() == steadyflux::ErrorKind::kBadInput);
    const std::string_view message = error.what();
    require(message.starts_with((folder / "x.gguf").string() + ":"));
    for (const char c : message) require(c >= ' ' && c <= '~');
  }
  return 0;
}
