#include "weights/gguf_writer.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <set>
#include <type_traits>

#include "base/utf8.h"
#include "steadyflux/error.h"
#include "weights/gguf.h"

namespace steadyflux {
namespace {

constexpr std::uint32_t kVersion = 3;
constexpr std::size_t kMaxKeyBytes = 65535;
// The format says 64; programs for pictures build ggml with room for 127, and names need it.
constexpr std::size_t kMaxNameBytes = 127;

void expect_utf8(const std::string& text, const char* what) {
  if (is_valid_utf8(text)) return;
  throw Error(ErrorKind::kBadInput, fmt::format("{} is not UTF-8, which a GGUF file must be: '{}'",
                                                what, printable(text)));
}

Error cannot_write(std::string_view name, const std::string& why) {
  return {ErrorKind::kInternal,
          fmt::format("tensor '{}' cannot be written: {}", printable(name), why)};
}

std::uint64_t padding(std::uint64_t size) { return -size % kGgufAlignment; }

// Bytes of the tensor's data, without padding.
std::uint64_t data_bytes(const TensorLayout& layout) {
  constexpr std::uint64_t kMax = std::numeric_limits<std::int64_t>::max();
  const auto wrong_shape = [&] {
    return cannot_write(layout.name, fmt::format("its shape is {} {}", to_string(layout.dtype),
                                                 shape_to_string(layout.shape)));
  };
  if (layout.shape.size() > kGgufMaxDimensions) throw wrong_shape();
  const std::int64_t row = layout.shape.empty() ? 1 : layout.shape.back();
  if (row % item_values(layout.dtype) != 0) throw wrong_shape();
  std::uint64_t bytes = item_size(layout.dtype);
  for (std::size_t i = 0; i < layout.shape.size(); ++i) {
    const bool last = i + 1 == layout.shape.size();
    const std::int64_t items = layout.shape[i] / (last ? item_values(layout.dtype) : 1);
    if (items < 1 || bytes > kMax / static_cast<std::uint64_t>(items)) throw wrong_shape();
    bytes *= static_cast<std::uint64_t>(items);
  }
  return bytes;
}

template <typename T>
constexpr std::uint32_t value_type() {
  if constexpr (std::is_same_v<T, std::uint8_t>) return 0;
  if constexpr (std::is_same_v<T, std::int8_t>) return 1;
  if constexpr (std::is_same_v<T, std::uint16_t>) return 2;
  if constexpr (std::is_same_v<T, std::int16_t>) return 3;
  if constexpr (std::is_same_v<T, std::uint32_t>) return 4;
  if constexpr (std::is_same_v<T, std::int32_t>) return 5;
  if constexpr (std::is_same_v<T, float>) return 6;
  if constexpr (std::is_same_v<T, bool>) return 7;
  if constexpr (std::is_same_v<T, std::string>) return 8;
  if constexpr (std::is_same_v<T, std::uint64_t>) return 10;
  if constexpr (std::is_same_v<T, std::int64_t>) return 11;
  if constexpr (std::is_same_v<T, double>) return 12;
}
constexpr std::uint32_t kArrayType = 9;

class HeaderBytes {
 public:
  void text(std::string_view text) { append(text.data(), text.size()); }

  template <typename T>
  void add(const T& value) {
    static_assert(std::endian::native == std::endian::little && std::is_arithmetic_v<T>);
    append(&value, sizeof value);
  }
  void add(const std::string& value) {
    add<std::uint64_t>(value.size());
    text(value);
  }

  template <typename T>
  void add_value(const T& value) {
    add(value_type<T>());
    add_checked(value);
  }
  template <typename T>
  void add_value(const std::vector<T>& values) {
    add(kArrayType);
    add(value_type<T>());
    add<std::uint64_t>(values.size());
    for (const T& value : values) add_checked(value);
  }

  std::size_t size() const { return bytes_.size(); }
  void zeros(std::uint64_t count) { bytes_.resize(bytes_.size() + count); }
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  template <typename T>
  void add_checked(const T& value) {
    if constexpr (std::is_same_v<T, std::string>) expect_utf8(value, "the metadata");
    add(value);
  }
  void append(const void* data, std::size_t size) {
    const auto* begin = static_cast<const std::byte*>(data);
    bytes_.insert(bytes_.end(), begin, begin + size);
  }

  std::vector<std::byte> bytes_;
};

void add_metadata(const GgufMetadata& metadata, HeaderBytes& header) {
  std::set<std::string> keys;
  for (const auto& [key, value] : metadata) {
    expect_utf8(key, "the name of a metadata entry");
    // With another alignment than ours the file would not be one.
    if (key.empty() || key.size() > kMaxKeyBytes || key == "general.alignment" ||
        !keys.insert(key).second) {
      throw Error(ErrorKind::kInternal,
                  fmt::format("metadata '{}' cannot be written: its key is empty, given twice, "
                              "reserved or longer than {} bytes",
                              printable(key), kMaxKeyBytes));
    }
    header.add(key);
    std::visit([&](const auto& held) { header.add_value(held); }, value);
  }
}

}  // namespace

GgufWriter::GgufWriter(std::vector<TensorLayout> tensors, const GgufMetadata& metadata, Sink sink)
    : tensors_(std::move(tensors)), sink_(std::move(sink)) {
  HeaderBytes header;
  header.text("GGUF");
  header.add(kVersion);
  header.add<std::uint64_t>(tensors_.size());
  header.add<std::uint64_t>(metadata.size());
  add_metadata(metadata, header);
  std::set<std::string> names;
  std::uint64_t offset = 0;
  for (const TensorLayout& tensor : tensors_) {
    expect_utf8(tensor.name, "the name of a tensor");
    if (tensor.name.empty() || tensor.name.size() > kMaxNameBytes) {
      throw cannot_write(tensor.name,
                         fmt::format("names have 1 to {} bytes in a GGUF file", kMaxNameBytes));
    }
    if (!names.insert(tensor.name).second) throw cannot_write(tensor.name, "it is given twice");
    const auto type = ggml_type_of(tensor.dtype);
    if (!type) throw cannot_write(tensor.name, "GGUF has no " + to_string(tensor.dtype));
    sizes_.push_back(data_bytes(tensor));
    header.add(tensor.name);
    header.add(static_cast<std::uint32_t>(tensor.shape.size()));
    for (std::size_t i = tensor.shape.size(); i-- > 0;) {
      header.add(static_cast<std::uint64_t>(tensor.shape[i]));
    }
    header.add(*type);
    header.add(offset);
    // Below 2^63 each, and the sum stays below as well.
    const std::uint64_t padded = sizes_.back() + padding(sizes_.back());
    if (padded > std::numeric_limits<std::int64_t>::max() - offset) {
      throw cannot_write(tensor.name, "no file is so large");
    }
    offset += padded;
  }
  header.zeros(padding(header.size()));
  file_bytes_ = header.size() + offset;
  sink_(header.bytes());
}

void GgufWriter::write(std::string_view tensor, std::span<const std::byte> data) {
  if (current_ == tensors_.size() || tensors_[current_].name != tensor) {
    throw cannot_write(
        tensor, current_ == tensors_.size()
                    ? "all that were declared are complete"
                    : fmt::format("its turn is after '{}'", printable(tensors_[current_].name)));
  }
  if (data.size() > sizes_[current_] - written_) {
    throw cannot_write(tensor, fmt::format("it takes {} bytes, given are {}", sizes_[current_],
                                           written_ + data.size()));
  }
  sink_(data);
  written_ += data.size();
  if (written_ < sizes_[current_]) return;
  pad(written_);
  ++current_;
  written_ = 0;
}

void GgufWriter::finish() const {
  if (current_ == tensors_.size()) return;
  throw cannot_write(tensors_[current_].name,
                     fmt::format("it takes {} bytes, given are {}", sizes_[current_], written_));
}

void GgufWriter::pad(std::uint64_t written) {
  const std::array<std::byte, kGgufAlignment> zeros = {};
  const std::uint64_t count = padding(written);
  if (count > 0) sink_(std::span(zeros).first(count));
}

}  // namespace steadyflux
