#include "weights/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/utf8.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

using nlohmann::json;

constexpr std::size_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr std::size_t kMaxDimensions = 16;
constexpr std::uint64_t kMaxSide = std::numeric_limits<std::int64_t>::max();
constexpr DType kDTypes[] = {DType::kBool, DType::kU8,  DType::kI8,     DType::kI16,
                             DType::kI32,  DType::kI64, DType::kF16,    DType::kBF16,
                             DType::kF32,  DType::kF64, DType::kF8E4M3, DType::kF8E5M2};

std::optional<DType> parse_dtype(const std::string& name) {
  for (const DType dtype : kDTypes) {
    if (to_string(dtype) == name) return dtype;
  }
  return std::nullopt;
}

std::optional<std::uint64_t> multiply(std::uint64_t a, std::uint64_t b) {
  if (b != 0 && a > std::numeric_limits<std::int64_t>::max() / b) return std::nullopt;
  return a * b;
}

// Turns the header's entries into views, one file at a time.
class HeaderReader {
 public:
  explicit HeaderReader(std::shared_ptr<const MappedFile> file) : file_(std::move(file)) {}

  SafetensorsFile read() {
    const std::string_view text = header_text();
    const json header = parse_json(text, file_->path());
    if (!header.is_object()) {
      throw fail(fmt::format("the header is {}, expected an object", header.type_name()));
    }
    SafetensorsFile result;
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__") {
        result.metadata = read_metadata(entry);
      } else {
        result.tensors.emplace(name, read_tensor(name, entry));
      }
    }
    check_coverage();
    return result;
  }

 private:
  struct Range {
    std::uint64_t begin;
    std::uint64_t end;
    std::string name;
  };

  Error fail(const std::string& what) const {
    return Error(ErrorKind::kBadInput, fmt::format("{}: {}", file_->path().string(), what));
  }
  Error fail(const std::string& name, const std::string& what) const {
    return fail(fmt::format("tensor '{}': {}", printable(name), what));
  }

  std::string_view header_text() {
    const auto bytes = file_->bytes();
    if (bytes.size() < kLengthBytes) {
      throw fail(
          fmt::format("truncated: {} bytes, not even the 8 bytes of the header length; "
                      "fetch it again",
                      bytes.size()));
    }
    std::uint64_t length = 0;
    for (std::size_t i = 0; i < kLengthBytes; ++i) {
      length |= static_cast<std::uint64_t>(bytes[i]) << (8 * i);
    }
    if (length > kMaxHeaderBytes) {
      throw fail(
          fmt::format("not a safetensors file: its header length would be {} bytes, the "
                      "format allows {}",
                      length, kMaxHeaderBytes));
    }
    if (length > bytes.size() - kLengthBytes) {
      throw fail(
          fmt::format("truncated: the header ends at byte {}, the file has {}; fetch it "
                      "again",
                      length + kLengthBytes, bytes.size()));
    }
    data_offset_ = kLengthBytes + static_cast<std::size_t>(length);
    data_size_ = bytes.size() - data_offset_;
    return {reinterpret_cast<const char*>(bytes.data()) + kLengthBytes,
            static_cast<std::size_t>(length)};
  }

  std::map<std::string, std::string> read_metadata(const json& entry) const {
    std::map<std::string, std::string> metadata;
    if (!entry.is_object()) throw fail("__metadata__ is not an object of strings");
    for (const auto& [key, value] : entry.items()) {
      if (!value.is_string()) {
        throw fail(fmt::format("__metadata__: the value of '{}' is {}, expected a string",
                               printable(key), value.type_name()));
      }
      metadata.emplace(key, value.get<std::string>());
    }
    return metadata;
  }

  const json& member(const std::string& name, const json& entry, const char* key) const {
    if (!entry.is_object()) {
      throw fail(name, fmt::format("its entry is {}, expected an object", entry.type_name()));
    }
    const auto it = entry.find(key);
    if (it == entry.end()) throw fail(name, fmt::format("its entry lacks '{}'", key));
    return *it;
  }

  TensorView read_tensor(const std::string& name, const json& entry) {
    TensorView view;
    view.file = file_;
    const json& dtype = member(name, entry, "dtype");
    if (!dtype.is_string()) throw fail(name, "its dtype is not a string");
    const auto known = parse_dtype(dtype.get<std::string>());
    if (!known) {
      throw fail(name, fmt::format("unknown dtype '{}'; known are BOOL, U8, I8, I16, I32, I64, "
                                   "F16, BF16, F32, F64, F8_E4M3 and F8_E5M2",
                                   printable(dtype.get<std::string>())));
    }
    view.dtype = *known;
    const std::uint64_t expected = read_shape(name, entry, view);

    const json& offsets = member(name, entry, "data_offsets");
    if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
        !offsets[1].is_number_unsigned()) {
      throw fail(name, "its data_offsets are not two non-negative integers");
    }
    const auto begin = offsets[0].get<std::uint64_t>();
    const auto end = offsets[1].get<std::uint64_t>();
    if (begin > end) {
      throw fail(name, fmt::format("its data_offsets [{}, {}] run backwards", begin, end));
    }
    if (end - begin != expected) {
      throw fail(name, fmt::format("{} {} needs {} bytes, its data_offsets [{}, {}] give {}",
                                   to_string(view.dtype), shape_to_string(view.shape), expected,
                                   begin, end, end - begin));
    }
    ranges_.push_back({begin, end, name});
    // Only kept once check_coverage has seen that the range lies inside the file.
    if (end <= data_size_) view.data = file_->bytes().data() + data_offset_ + begin;
    view.nbytes = static_cast<std::size_t>(expected);
    return view;
  }

  // Fills view.shape; returns the bytes the tensor takes.
  std::uint64_t read_shape(const std::string& name, const json& entry, TensorView& view) const {
    const json& shape = member(name, entry, "shape");
    if (!shape.is_array() || shape.size() > kMaxDimensions) {
      throw fail(name,
                 fmt::format("its shape is not an array of at most {} integers", kMaxDimensions));
    }
    // A zero makes the product 0, but the other sides must not overflow whoever computes strides.
    std::optional<std::uint64_t> bytes = item_size(view.dtype);
    bool empty = false;
    for (const json& side : shape) {
      if (!side.is_number_unsigned() || side.get<std::uint64_t>() > kMaxSide) {
        throw fail(name, fmt::format("its shape holds {}, expected integers from 0 to {}",
                                     printable(side.dump()), kMaxSide));
      }
      const auto size = side.get<std::uint64_t>();
      view.shape.push_back(static_cast<std::int64_t>(size));
      empty = empty || size == 0;
      bytes = multiply(*bytes, std::max<std::uint64_t>(size, 1));
      if (!bytes) throw fail(name, "its shape is too large for any file");
    }
    return empty ? 0 : *bytes;
  }

  // The format demands that the tensors cover the data exactly: no overlap, no hole, no rest.
  void check_coverage() {
    std::sort(ranges_.begin(), ranges_.end(), [](const Range& a, const Range& b) {
      return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
    });
    std::uint64_t covered = 0;
    for (const Range& range : ranges_) {
      if (range.begin != covered) {
        throw fail(range.name,
                   fmt::format("its data begins at {}, but the tensors before it end at {}: {}",
                               range.begin, covered,
                               range.begin < covered ? "they overlap" : "there is a hole"));
      }
      covered = range.end;
    }
    if (covered > data_size_) {
      throw fail(
          fmt::format("truncated: the header promises {} bytes, the file has {}; fetch it "
                      "again",
                      static_cast<std::uint64_t>(data_offset_) + covered, file_->bytes().size()));
    }
    if (covered < data_size_) {
      throw fail(
          fmt::format("{} bytes lie after the last tensor; the header promises {} bytes in "
                      "all, the file has {}",
                      data_size_ - covered, static_cast<std::uint64_t>(data_offset_) + covered,
                      file_->bytes().size()));
    }
  }

  std::shared_ptr<const MappedFile> file_;
  std::size_t data_offset_ = 0;
  std::uint64_t data_size_ = 0;
  std::vector<Range> ranges_;
};

}  // namespace

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  return HeaderReader(MappedFile::open(path)).read();
}

}  // namespace steadyflux
