#include "weights/gguf.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <string_view>
#include <utility>
#include <vector>

#include "base/utf8.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

using nlohmann::json;

// What is plenty for models of today, and keeps what a hostile file can make us allocate small.
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // all before the data
constexpr std::uint64_t kMaxEntries = 1 << 20;          // of metadata, and of tensors
constexpr std::uint64_t kMaxElements = 10'000'000;      // of all arrays together
constexpr std::uint64_t kMaxNameBytes = 65535;          // the format's own limit for keys
constexpr int kMaxDepth = 8;                            // of arrays
constexpr std::size_t kMaxOriginalDimensions = 16;
constexpr std::uint64_t kMaxSide = std::numeric_limits<std::int64_t>::max();

constexpr std::string_view kMagic = "GGUF";
constexpr std::uint64_t kSmallestEntry = 8 + 4 + 1;       // key, type, value
constexpr std::uint64_t kSmallestTensor = 8 + 4 + 4 + 8;  // name, dimensions, type, offset

// Types of metadata, and the fewest bytes a value of each takes.
enum class ValueType : std::uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
};
constexpr std::uint64_t kSmallestValue[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};

struct KnownType {
  std::uint32_t number;
  DType dtype;
};
constexpr KnownType kKnownTypes[] = {
    {0, DType::kF32},   {1, DType::kF16},   {30, DType::kBF16},   {28, DType::kF64},
    {24, DType::kI8},   {25, DType::kI16},  {26, DType::kI32},    {27, DType::kI64},
    {2, DType::kQ4_0},  {3, DType::kQ4_1},  {6, DType::kQ5_0},    {7, DType::kQ5_1},
    {8, DType::kQ8_0},  {10, DType::kQ2_K}, {11, DType::kQ3_K},   {12, DType::kQ4_K},
    {13, DType::kQ5_K}, {14, DType::kQ6_K}, {20, DType::kIQ4_NL}, {23, DType::kIQ4_XS}};

struct OtherType {
  std::uint32_t number;
  bool removed;  // from GGML: nobody reads such files any more
  const char* name;
};
constexpr OtherType kOtherTypes[] = {
    {4, true, "Q4_2"},        {5, true, "Q4_3"},        {9, false, "Q8_1"},
    {15, false, "Q8_K"},      {16, false, "IQ2_XXS"},   {17, false, "IQ2_XS"},
    {18, false, "IQ3_XXS"},   {19, false, "IQ1_S"},     {21, false, "IQ3_S"},
    {22, false, "IQ2_S"},     {29, false, "IQ1_M"},     {31, true, "Q4_0_4_4"},
    {32, true, "Q4_0_4_8"},   {33, true, "Q4_0_8_8"},   {34, false, "TQ1_0"},
    {35, false, "TQ2_0"},     {36, true, "IQ4_NL_4_4"}, {37, true, "IQ4_NL_4_8"},
    {38, true, "IQ4_NL_8_8"}, {39, false, "MXFP4"},     {40, false, "NVFP4"},
    {41, false, "Q1_0"},      {42, false, "Q2_0"}};

std::string describe_other_type(std::uint32_t number) {
  std::vector<std::string> names;
  for (const KnownType& type : kKnownTypes) names.push_back(to_string(type.dtype));
  const auto read =
      fmt::format("read are {}; use another version of this model", fmt::join(names, ", "));
  for (const OtherType& type : kOtherTypes) {
    if (type.number != number) continue;
    return fmt::format("its type {} ({}) {}; {}", type.name, number,
                       type.removed ? "was removed from GGUF" : "cannot be read", read);
  }
  return fmt::format("its type {} is unknown; {}", number, read);
}

// Both up to kMaxSide. Nothing if the product is not.
std::optional<std::uint64_t> multiply(std::uint64_t a, std::uint64_t b) {
  if (b != 0 && a > kMaxSide / b) return std::nullopt;
  return a * b;
}

// For what lies in files: far from where this would overflow.
std::uint64_t align(std::uint64_t offset, std::uint64_t alignment) {
  return (offset + alignment - 1) / alignment * alignment;
}

// Goes through the file from its beginning to the data, once.
class HeaderReader {
 public:
  explicit HeaderReader(std::shared_ptr<const MappedFile> file)
      : file_(std::move(file)), bytes_(file_->bytes()) {}

  GgufFile read() {
    GgufFile result;
    result.version = read_version();
    const auto tensors = number<std::uint64_t>();
    const auto entries = number<std::uint64_t>();
    check_count(tensors, kSmallestTensor, kMaxEntries, "tensors");
    check_count(entries, kSmallestEntry, kMaxEntries, "entries of metadata");
    metadata_ = json::object();
    for (std::uint64_t i = 0; i < entries; ++i) read_entry(i);
    context_.clear();
    read_alignment();
    for (std::uint64_t i = 0; i < tensors; ++i) read_tensor(i, result.tensors);
    context_.clear();
    place_tensors();
    result.metadata = std::move(metadata_);
    return result;
  }

 private:
  struct Place {
    std::uint64_t begin;  // from the beginning of the data
    const std::string* name;
    TensorView* view;
  };

  Error fail(const std::string& what) const {
    return Error(ErrorKind::kBadInput,
                 fmt::format("{}: {}{}", file_->path().string(), context_, what));
  }

  // --- bytes ----------------------------------------------------------------------------------

  std::uint64_t rest() const { return bytes_.size() - at_; }

  const std::byte* take(std::uint64_t count) {
    if (count > rest()) {
      throw fail(
          fmt::format("truncated or damaged: {} bytes are expected at byte {}, the file has "
                      "{}; fetch it again",
                      count, at_, bytes_.size()));
    }
    if (count > kMaxHeaderBytes - at_) {
      throw fail(fmt::format("damaged: more than {} bytes lie before the data", kMaxHeaderBytes));
    }
    const std::byte* begin = bytes_.data() + at_;
    at_ += static_cast<std::size_t>(count);
    return begin;
  }

  template <typename T>
  T number() {
    static_assert(std::endian::native == std::endian::little);
    T value;
    std::memcpy(&value, take(sizeof value), sizeof value);
    return value;
  }

  std::string text(const char* what, std::uint64_t max_bytes) {
    const auto length = number<std::uint64_t>();
    if (length > max_bytes) {
      throw fail(fmt::format("damaged: {} of {} bytes at byte {}, expected at most {}", what,
                             length, at_, max_bytes));
    }
    const auto* begin = reinterpret_cast<const char*>(take(length));
    std::string result(begin, static_cast<std::size_t>(length));
    if (!is_valid_utf8(result)) {
      throw fail(fmt::format("{} is not UTF-8: '{}'", what, printable(result)));
    }
    return result;
  }

  // Before anything is allocated: can the file hold so many?
  void check_count(std::uint64_t count, std::uint64_t smallest, std::uint64_t most,
                   const char* what) const {
    if (count > rest() / smallest) {
      throw fail(
          fmt::format("truncated or damaged: it should have {} {}, for which the {} bytes "
                      "after byte {} are too few; fetch it again",
                      count, what, rest(), at_));
    }
    if (count > most) {
      throw fail(fmt::format("it should have {} {}, at most {} are read", count, what, most));
    }
  }

  // --- header and metadata --------------------------------------------------------------------

  std::uint32_t read_version() {
    if (!is_gguf(bytes_)) {
      const std::string_view found(reinterpret_cast<const char*>(bytes_.data()),
                                   std::min(bytes_.size(), kMagic.size()));
      throw fail(fmt::format("not a GGUF file: it begins with '{}', expected '{}'",
                             printable(found), kMagic));
    }
    take(kMagic.size());
    const auto version = number<std::uint32_t>();
    if (version != 0 && (version & 0xFFFF) == 0) {
      throw fail("a GGUF file for big-endian computers; only little-endian ones are read");
    }
    if (version != 2 && version != 3) {
      throw fail(fmt::format("GGUF version {}, read are 2 and 3", version));
    }
    return version;
  }

  void read_entry(std::uint64_t index) {
    context_ = fmt::format("metadata entry {}: ", index);
    std::string key = text("its key", kMaxNameBytes);
    if (key.empty()) throw fail("its key is empty");
    context_ = fmt::format("metadata '{}': ", printable(key));
    if (metadata_.contains(key)) throw fail("given twice");
    const auto type = number<std::uint32_t>();
    json value = read_value(type, 0);
    metadata_.emplace(std::move(key), std::move(value));
  }

  json read_value(std::uint32_t type, int depth) {
    switch (static_cast<ValueType>(type)) {
      case ValueType::kUint8:
        return number<std::uint8_t>();
      case ValueType::kInt8:
        return number<std::int8_t>();
      case ValueType::kUint16:
        return number<std::uint16_t>();
      case ValueType::kInt16:
        return number<std::int16_t>();
      case ValueType::kUint32:
        return number<std::uint32_t>();
      case ValueType::kInt32:
        return number<std::int32_t>();
      case ValueType::kFloat32:
        return number<float>();
      case ValueType::kBool:
        return read_bool();
      case ValueType::kString:
        return text("its text", kMaxHeaderBytes);
      case ValueType::kArray:
        return read_array(depth);
      case ValueType::kUint64:
        return number<std::uint64_t>();
      case ValueType::kInt64:
        return number<std::int64_t>();
      case ValueType::kFloat64:
        return number<double>();
    }
    throw fail(fmt::format("unknown type {} of its value, expected 0 to {}", type,
                           std::size(kSmallestValue) - 1));
  }

  bool read_bool() {
    const auto value = number<std::uint8_t>();
    if (value > 1) throw fail(fmt::format("a bool of {}, expected 0 or 1", value));
    return value == 1;
  }

  json read_array(int depth) {
    if (depth >= kMaxDepth) {
      throw fail(fmt::format("arrays nested deeper than {} levels", kMaxDepth));
    }
    const auto type = number<std::uint32_t>();
    if (type >= std::size(kSmallestValue)) {
      throw fail(fmt::format("unknown type {} of its elements, expected 0 to {}", type,
                             std::size(kSmallestValue) - 1));
    }
    const auto count = number<std::uint64_t>();
    check_count(count, kSmallestValue[type], kMaxElements - elements_, "elements");
    elements_ += count;
    json::array_t elements;
    elements.reserve(static_cast<std::size_t>(count));
    for (std::uint64_t i = 0; i < count; ++i) elements.push_back(read_value(type, depth + 1));
    return elements;
  }

  void read_alignment() {
    const auto it = metadata_.find("general.alignment");
    if (it == metadata_.end()) return;
    if (it->is_number_unsigned()) alignment_ = it->get<std::uint64_t>();
    if (!it->is_number_unsigned() || !std::has_single_bit(alignment_) || alignment_ > 1u << 31) {
      throw fail(fmt::format("metadata 'general.alignment': {}, expected a power of two",
                             it->is_number() ? it->dump() : it->type_name()));
    }
  }

  // --- tensors --------------------------------------------------------------------------------

  void read_tensor(std::uint64_t index, std::map<std::string, TensorView>& tensors) {
    context_ = fmt::format("tensor {}: ", index);
    const std::string name = text("its name", kMaxNameBytes);
    context_ = fmt::format("tensor '{}': ", printable(name));
    const auto [it, is_new] = tensors.try_emplace(name);
    if (!is_new) throw fail("given twice");
    TensorView& view = it->second;
    view.file = file_;
    const std::uint64_t values = read_shape(view);
    const auto type = number<std::uint32_t>();
    const auto dtype = dtype_of_ggml_type(type);
    if (!dtype) throw fail(describe_other_type(type));
    view.dtype = *dtype;
    expect_whole_blocks(view, "shape");
    const auto nbytes =
        multiply(values / static_cast<std::uint64_t>(item_values(*dtype)), item_size(*dtype));
    if (!nbytes) throw fail("its shape is too large for any file");
    view.nbytes = static_cast<std::size_t>(*nbytes);
    apply_original_shape(name, values, view);
    const auto offset = number<std::uint64_t>();
    if (offset % alignment_ != 0) {
      throw fail(
          fmt::format("its data begins at {}, expected a multiple of {}", offset, alignment_));
    }
    places_.push_back({offset, &it->first, &view});
  }

  // Fills view.shape; returns how many values the tensor has.
  std::uint64_t read_shape(TensorView& view) {
    const auto dimensions = number<std::uint32_t>();
    if (dimensions > kGgufMaxDimensions) {
      throw fail(fmt::format("{} dimensions, GGUF has at most {}", dimensions, kGgufMaxDimensions));
    }
    std::optional<std::uint64_t> values = 1;
    for (std::uint32_t i = 0; i < dimensions; ++i) {
      const auto side = number<std::uint64_t>();
      if (side == 0 || side > kMaxSide) {
        throw fail(
            fmt::format("its shape holds {}, expected integers from 1 to {}", side, kMaxSide));
      }
      view.shape.insert(view.shape.begin(), static_cast<std::int64_t>(side));
      values = multiply(*values, side);
      if (!values) throw fail("its shape is too large for any file");
    }
    return *values;
  }

  void expect_whole_blocks(const TensorView& view, const char* what) const {
    const std::int64_t row = view.shape.empty() ? 1 : view.shape.back();
    if (row % item_values(view.dtype) == 0) return;
    throw fail(fmt::format(
        "its {} {} has rows of {} values, expected a multiple of the {} that a "
        "block of {} holds",
        what, shape_to_string(view.shape), row, item_values(view.dtype), to_string(view.dtype)));
  }

  // Quantising wants rows of whole blocks, and some writers reshape tensors that have none.
  void apply_original_shape(const std::string& name, std::uint64_t values, TensorView& view) {
    const auto it = metadata_.find(kGgufOriginalShape + name);
    if (it == metadata_.end()) return;
    if (!it->is_array() || it->size() > kMaxOriginalDimensions) {
      throw fail(
          fmt::format("its original shape in the metadata is not an array of at most {} "
                      "integers",
                      kMaxOriginalDimensions));
    }
    std::vector<std::int64_t> shape;
    std::optional<std::uint64_t> product = 1;
    for (const json& side : *it) {
      // Unsigned numbers above kMaxSide turn negative here.
      const std::int64_t size = side.is_number_integer() ? side.get<std::int64_t>() : 0;
      if (size < 1) {
        throw fail(
            fmt::format("its original shape in the metadata holds {}, expected integers "
                        "from 1",
                        side.is_number() ? side.dump() : side.type_name()));
      }
      shape.push_back(size);
      product = product ? multiply(*product, static_cast<std::uint64_t>(size)) : product;
    }
    if (product != values) {
      throw fail(
          fmt::format("its original shape in the metadata is {}, which does not have the "
                      "{} values of {}",
                      shape_to_string(shape), values, shape_to_string(view.shape)));
    }
    view.shape = std::move(shape);
    expect_whole_blocks(view, "original shape");
  }

  // Sets where the data of every tensor lies, having seen that it lies in the file.
  void place_tensors() {
    const std::uint64_t data_offset = align(at_, alignment_);
    std::sort(places_.begin(), places_.end(),
              [](const Place& a, const Place& b) { return a.begin < b.begin; });
    std::uint64_t end = at_;              // of what there is so far
    std::uint64_t covered = data_offset;  // with the padding
    for (const Place& place : places_) {
      context_ = fmt::format("tensor '{}': ", printable(*place.name));
      // Compared like this, nothing overflows.
      if (place.begin != covered - data_offset) {
        throw fail(
            fmt::format("its data begins at {}, but the tensors before it end at {}: {}",
                        place.begin, covered - data_offset,
                        place.begin < covered - data_offset ? "they overlap" : "there is a hole"));
      }
      if (covered > bytes_.size() || place.view->nbytes > bytes_.size() - covered) {
        throw fail(
            fmt::format("truncated: its {} bytes begin at byte {}, the file has {}; fetch "
                        "it again",
                        place.view->nbytes, covered, bytes_.size()));
      }
      place.view->data = bytes_.data() + covered;
      end = covered + place.view->nbytes;
      covered = align(end, alignment_);
    }
    context_.clear();
    if (bytes_.size() > covered) {
      throw fail(
          fmt::format("{} bytes lie after the last tensor and its padding; expected is a "
                      "file of {} to {} bytes, found {}",
                      bytes_.size() - covered, end, covered, bytes_.size()));
    }
  }

  std::shared_ptr<const MappedFile> file_;
  std::span<const std::byte> bytes_;
  std::size_t at_ = 0;   // <= bytes_.size()
  std::string context_;  // of messages: "tensor 'NAME': "
  json metadata_;
  std::uint64_t elements_ = 0;  // of all arrays so far
  std::uint64_t alignment_ = kGgufAlignment;
  std::vector<Place> places_;
};

}  // namespace

GgufFile GgufFile::open(const std::filesystem::path& path) {
  return HeaderReader(MappedFile::open(path)).read();
}

bool is_gguf(std::span<const std::byte> beginning) {
  return beginning.size() >= kMagic.size() &&
         std::memcmp(beginning.data(), kMagic.data(), kMagic.size()) == 0;
}

std::optional<DType> dtype_of_ggml_type(std::uint32_t type) {
  for (const KnownType& known : kKnownTypes) {
    if (known.number == type) return known.dtype;
  }
  return std::nullopt;
}

std::optional<std::uint32_t> ggml_type_of(DType dtype) {
  for (const KnownType& known : kKnownTypes) {
    if (known.dtype == dtype) return known.number;
  }
  return std::nullopt;
}

}  // namespace steadyflux
