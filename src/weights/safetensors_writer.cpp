#include "weights/safetensors_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/utf8.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

constexpr std::size_t kLengthBytes = 8;
constexpr std::size_t kAlignment = 8;
constexpr std::size_t kMaxHeaderBytes = 100'000'000;  // the format's own limit

void expect_utf8(const std::string& text, const char* what) {
  if (is_valid_utf8(text)) return;
  throw Error(ErrorKind::kBadInput,
              fmt::format("{} is not UTF-8, which a safetensors file must be: '{}'", what,
                          printable(text)));
}

}  // namespace

std::size_t tensor_bytes(const TensorLayout& layout) {
  constexpr std::uint64_t kMax = std::numeric_limits<std::int64_t>::max();
  std::uint64_t bytes = item_size(layout.dtype);
  bool empty = false;
  for (const std::int64_t side : layout.shape) {
    empty = empty || side == 0;
    const auto factor = static_cast<std::uint64_t>(std::max<std::int64_t>(side, 1));
    if (side < 0 || bytes > kMax / factor) {
      throw Error(ErrorKind::kInternal,
                  fmt::format("tensor '{}' cannot be written: its shape is {}",
                              printable(layout.name), shape_to_string(layout.shape)));
    }
    bytes *= factor;
  }
  return empty ? 0 : static_cast<std::size_t>(bytes);
}

std::vector<std::uint8_t> safetensors_header(std::span<const TensorLayout> tensors,
                                             const std::map<std::string, std::string>& metadata) {
  // Sorted by name, "__metadata__" included: nothing depends on the order of the keys.
  nlohmann::json header = nlohmann::json::object();
  for (const auto& [key, value] : metadata) {
    expect_utf8(key, "the name of a metadata entry");
    expect_utf8(value, "the metadata");
    header["__metadata__"][key] = value;
  }
  std::set<std::string> names = {"__metadata__"};
  std::size_t offset = 0;
  for (const TensorLayout& tensor : tensors) {
    expect_utf8(tensor.name, "the name of a tensor");
    if (!names.insert(tensor.name).second) {
      throw Error(ErrorKind::kInternal,
                  fmt::format("tensor '{}' cannot be written twice", printable(tensor.name)));
    }
    const std::size_t end = offset + tensor_bytes(tensor);
    header[tensor.name] = {{"dtype", to_string(tensor.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  if (text.size() > kMaxHeaderBytes - kAlignment) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("the header would take {} bytes, a safetensors file has {} for it; "
                            "write several files",
                            text.size(), kMaxHeaderBytes));
  }
  text.resize((text.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');
  std::vector<std::uint8_t> bytes(kLengthBytes + text.size());
  for (std::size_t i = 0; i < kLengthBytes; ++i) {
    bytes[i] = static_cast<std::uint8_t>(text.size() >> (8 * i) & 0xFF);
  }
  std::memcpy(bytes.data() + kLengthBytes, text.data(), text.size());
  return bytes;
}

SafetensorsParts safetensors_parts(std::vector<TensorToWrite> tensors,
                                   const std::map<std::string, std::string>& metadata) {
  std::stable_sort(tensors.begin(), tensors.end(),
                   [](const TensorToWrite& a, const TensorToWrite& b) {
                     return item_size(a.layout.dtype) > item_size(b.layout.dtype);
                   });
  SafetensorsParts parts;
  std::vector<TensorLayout> layouts;
  for (const TensorToWrite& tensor : tensors) {
    layouts.push_back(tensor.layout);
    if (tensor.data.size() != tensor_bytes(tensor.layout)) {
      throw Error(ErrorKind::kInternal,
                  fmt::format("tensor '{}' cannot be written: {} {} takes {} bytes, given are {}",
                              printable(tensor.layout.name), to_string(tensor.layout.dtype),
                              shape_to_string(tensor.layout.shape), tensor_bytes(tensor.layout),
                              tensor.data.size()));
    }
    parts.data.push_back(tensor.data);
  }
  parts.header = safetensors_header(layouts, metadata);
  return parts;
}

std::vector<std::uint8_t> safetensors_bytes(std::vector<TensorToWrite> tensors,
                                            const std::map<std::string, std::string>& metadata) {
  auto [bytes, parts] = safetensors_parts(std::move(tensors), metadata);
  for (const auto part : parts) {
    const auto* data = reinterpret_cast<const std::uint8_t*>(part.data());
    bytes.insert(bytes.end(), data, data + part.size());
  }
  return std::move(bytes);
}

}  // namespace steadyflux
