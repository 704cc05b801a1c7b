// Unpacked values are bit for bit those of gguf-py, PyTorch and bitsandbytes, whose results
// scripts/make_quantization_goldens.py wrote down, with every instruction set this machine has and
// for every output type; and any part of a matrix unpacks to the same values as the whole.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "expect_error.h"
#include "quantization/goldens.h"
#include "quantization/instruction_set.h"
#include "quantization/packed_values.h"

namespace steadyflux {
namespace {

using nlohmann::json;
using testing::dtype_named;
using testing::floats;
using testing::from_hex;
using testing::goldens;

constexpr std::array<DType, 12> kBlockTypes = {
    DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0,   DType::kQ2_K,
    DType::kQ3_K, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kIQ4_NL, DType::kIQ4_XS};

// The bits of a value, the same ones for every NaN.
std::uint32_t bits_of(float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  return std::isnan(value) ? 0x7fc00000 : bits;
}
std::uint16_t bits_of(BFloat16Bits value) {
  return (value.bits & 0x7fff) > 0x7f80 ? 0x7fc0 : value.bits;
}
std::uint16_t bits_of(Half16 value) { return (value.bits & 0x7fff) > 0x7c00 ? 0x7e00 : value.bits; }

template <typename Out>
std::string hash_of(const std::vector<Out>& values) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const Out value : values) {
    const auto bits = bits_of(value);
    for (std::size_t i = 0; i < sizeof bits; ++i) {
      hash = (hash ^ ((bits >> (8 * i)) & 0xff)) * 0x100000001b3;
    }
  }
  std::array<char, 17> text{};
  std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(hash));
  return text.data();
}

template <typename Out>
std::vector<Out> unpacked(InstructionSet set, const PackedValues& from, std::int64_t first,
                          std::int64_t count) {
  // Room behind the values shows what is written too far.
  const Out sentinel = std::bit_cast<Out>(static_cast<decltype(bits_of(Out{}))>(0x5a5a));
  std::vector<Out> values(static_cast<std::size_t>(count) + 64, sentinel);
  unpack_with(set, from, first, count, values.data());
  for (std::size_t i = static_cast<std::size_t>(count); i < values.size(); ++i) {
    EXPECT_EQ(bits_of(values[i]), bits_of(sentinel)) << "written past the end";
  }
  values.resize(static_cast<std::size_t>(count));
  return values;
}

// `hashes`: fp32, bf16, fp16.
void expect_hashes(const PackedValues& from, std::int64_t count, const json& hashes,
                   const std::string& what) {
  for (const auto set : instruction_sets()) {
    SCOPED_TRACE(what + ", instruction set " + std::to_string(static_cast<int>(set)));
    EXPECT_EQ(hash_of(unpacked<float>(set, from, 0, count)), hashes.at(0)) << "fp32";
    EXPECT_EQ(hash_of(unpacked<BFloat16Bits>(set, from, 0, count)), hashes.at(1)) << "bf16";
    EXPECT_EQ(hash_of(unpacked<Half16>(set, from, 0, count)), hashes.at(2)) << "fp16";
  }
}

json last_three(const json& entry) {
  const auto size = entry.size();
  return {entry.at(size - 3), entry.at(size - 2), entry.at(size - 1)};
}

TEST(Unpack, BlocksAreAsGgufPyReadsThem) {
  std::size_t seen = 0;
  for (const auto& entry : goldens().at("blocks")) {
    const DType type = dtype_named(entry.at(0));
    const auto block = from_hex(entry.at(1));
    ASSERT_EQ(block.size(), item_size(type));
    const PackedValues from = {
        .dtype = type, .row_values = item_values(type), .data = block.data()};
    expect_hashes(from, item_values(type), last_three(entry),
                  to_string(type) + " " + std::string(entry.at(1)));
    ++seen;
  }
  EXPECT_GE(seen, 12u * 40);
}

TEST(Unpack, Float8IsAsPyTorchCastsIt) {
  std::vector<std::byte> codes;
  for (int i = 0; i < 256; ++i) codes.push_back(static_cast<std::byte>(i));
  for (const auto& entry : goldens().at("float8")) {
    const auto scale = from_hex(entry.at(1));
    const PackedValues from = {.packing = Packing::kScaled,
                               .dtype = dtype_named(entry.at(0)),
                               .row_values = 256,
                               .data = codes.data(),
                               .scales = scale.data(),
                               .scale_count = scale.empty() ? 0 : 1};
    expect_hashes(from, 256, last_three(entry),
                  std::string(entry.at(0)) + " * " + std::string(entry.at(1)));
  }
}

TEST(Unpack, LlmInt8IsAsBitsandbytesReadsIt) {
  const auto& rows = goldens().at("int8");
  const auto count = static_cast<std::int64_t>(rows.size());
  ASSERT_GE(count, 16);
  std::vector<std::byte> codes, scales;
  for (const auto& row : rows) {
    for (int i = 0; i < 256; ++i) codes.push_back(static_cast<std::byte>(i));
    const auto scale = from_hex(row.at(0));
    scales.insert(scales.end(), scale.begin(), scale.end());
  }
  const PackedValues from = {.packing = Packing::kScaled,
                             .dtype = DType::kI8,
                             .row_values = 256,
                             .data = codes.data(),
                             .scales = scales.data(),
                             .scale_count = count,
                             .scale_factor = 1.0f / 127};
  for (const auto set : instruction_sets()) {
    const auto values = unpacked<float>(set, from, 0, 256 * count);
    for (std::int64_t row = 0; row < count; ++row) {
      const std::vector<float> of_row(values.begin() + 256 * row, values.begin() + 256 * (row + 1));
      EXPECT_EQ(hash_of(of_row), rows.at(static_cast<std::size_t>(row)).at(1)) << "row " << row;
      EXPECT_EQ(hash_of(unpacked<BFloat16Bits>(set, from, 256 * row, 256)),
                rows.at(static_cast<std::size_t>(row)).at(2));
    }
  }
}

// Owns what a PackedValues of 4-bit codes points to.
struct Codes4Golden {
  explicit Codes4Golden(const json& golden)
      : codes(from_hex(golden.at("codes"))),
        absmax(from_hex(golden.at("absmax"))),
        nested_absmax(from_hex(golden.value("nested_absmax", ""))),
        code(floats(golden.at("code"))),
        nested_code(floats(golden.value("nested_code", ""))) {
    values = {.packing = Packing::kCodes4,
              .dtype = DType::kU8,
              .row_values = 256,
              .data = codes.data(),
              .code = code.data(),
              .block = golden.at("block"),
              .absmax = absmax.data()};
    if (nested_code.empty()) return;
    values.nested_code = nested_code.data();
    values.nested_absmax = nested_absmax.data();
    values.nested_block = golden.at("nested_block");
    values.nested_offset = floats(golden.at("nested_offset")).at(0);
  }
  std::int64_t count() const { return 2 * static_cast<std::int64_t>(codes.size()); }

  std::vector<std::byte> codes, absmax, nested_absmax;
  std::vector<float> code, nested_code;
  PackedValues values;
};

TEST(Unpack, Codes4AreAsBitsandbytesReadsThem) {
  for (const auto& golden : goldens().at("codes4")) {
    const Codes4Golden from(golden);
    expect_hashes(from.values, from.count(), golden.at("hashes"),
                  std::string(golden.at("kind")) + ", blocks of " + golden.at("block").dump() +
                      (from.values.nested_code ? ", double" : ""));
  }
}

// Any range of a matrix, at any address, is that part of the whole.
void expect_parts(const PackedValues& from, std::size_t bytes, std::int64_t count,
                  std::int64_t step) {
  const auto whole = unpacked<float>(InstructionSet::kPortable, from, 0, count);
  std::mt19937 random(3);
  for (const auto set : instruction_sets()) {
    for (int trial = 0; trial < 40; ++trial) {
      const auto first = static_cast<std::int64_t>(random()) % (count / step + 1) * step;
      const auto part_count =
          static_cast<std::int64_t>(random()) % ((count - first) / step + 1) * step;
      std::vector<std::byte> moved(bytes + 8);
      const std::size_t offset = random() % 8;
      std::memcpy(moved.data() + offset, from.data, bytes);
      PackedValues moved_from = from;
      moved_from.data = moved.data() + offset;
      const auto part = unpacked<float>(set, moved_from, first, part_count);
      const std::vector<float> expected(whole.begin() + first, whole.begin() + first + part_count);
      EXPECT_EQ(hash_of(part), hash_of(expected)) << first << " + " << part_count;
    }
  }
}

std::vector<std::byte> random_bytes(std::size_t count) {
  std::mt19937 random(5);
  std::vector<std::byte> bytes(count);
  for (auto& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

TEST(Unpack, PartsOfBlocks) {
  for (const DType type : kBlockTypes) {
    const auto bytes = random_bytes(12 * item_size(type));
    const PackedValues from = {
        .dtype = type, .row_values = 4 * item_values(type), .data = bytes.data()};
    SCOPED_TRACE(to_string(type));
    expect_parts(from, bytes.size(), 12 * item_values(type), item_values(type));
  }
}

TEST(Unpack, PartsOfScaledRows) {
  const std::int64_t rows = 5, columns = 77;  // no multiple of anything
  const auto bytes = random_bytes(static_cast<std::size_t>(rows * columns));
  const std::vector<float> scales = {1, -0.25f, 3e5f, 0, 1e-3f};
  for (const DType type : {DType::kF8E4M3, DType::kF8E5M2, DType::kI8}) {
    for (const std::int64_t scale_count : {std::int64_t{0}, std::int64_t{1}, rows}) {
      const PackedValues from = {.packing = Packing::kScaled,
                                 .dtype = type,
                                 .row_values = columns,
                                 .data = bytes.data(),
                                 .scales = reinterpret_cast<const std::byte*>(scales.data()),
                                 .scale_count = scale_count};
      SCOPED_TRACE(to_string(type) + ", scales " + std::to_string(scale_count));
      expect_parts(from, bytes.size(), rows * columns, 1);
    }
  }
}

// A single row with one scale is one scale for all.
TEST(Unpack, OneRowWithAScale) {
  const auto bytes = random_bytes(300);
  const float scale = 2;
  PackedValues from = {.packing = Packing::kScaled,
                       .dtype = DType::kI8,
                       .row_values = 300,
                       .data = bytes.data(),
                       .scales = reinterpret_cast<const std::byte*>(&scale),
                       .scale_count = 1};
  const auto values = unpacked<float>(best_instruction_set(), from, 0, 300);
  for (std::size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(values[i], 2.0f * static_cast<float>(std::to_integer<std::int8_t>(bytes[i])));
  }
}

TEST(Unpack, PartsOfCodes4) {
  for (const auto& golden : goldens().at("codes4")) {
    const Codes4Golden from(golden);
    expect_parts(from.values, from.codes.size(), from.count(), 2);
  }
}

// A matrix cut out of a larger tensor: its blocks begin where the tensor's do.
TEST(Unpack, Codes4OfACut) {
  for (const auto& golden : goldens().at("codes4")) {
    const Codes4Golden from(golden);
    const auto whole = unpacked<float>(InstructionSet::kPortable, from.values, 0, from.count());
    for (const std::int64_t begin : {2, 30, 64, 100, 770}) {
      PackedValues cut = from.values;
      cut.data += begin / 2;
      cut.first_value = begin;
      for (const auto set : instruction_sets()) {
        const auto part = unpacked<float>(set, cut, 10, 1000);
        const std::vector<float> expected(whole.begin() + begin + 10, whole.begin() + begin + 1010);
        EXPECT_EQ(hash_of(part), hash_of(expected)) << "cut at " << begin;
      }
    }
  }
}

TEST(Unpack, NothingToDo) {
  const PackedValues from = {.dtype = DType::kQ4_K, .row_values = 256};
  float to = 7;
  unpack(from, 0, 0, &to);
  EXPECT_EQ(to, 7);
}

TEST(Unpack, OtherTypesAreABug) {
  float to = 0;
  expect_error(ErrorKind::kInternal, "BF16",
               [&] { unpack({.packing = Packing::kScaled, .dtype = DType::kBF16}, 0, 1, &to); });
  expect_error(ErrorKind::kInternal, "F8_E4M3",
               [&] { unpack({.packing = Packing::kBlocks, .dtype = DType::kF8E4M3}, 0, 1, &to); });
}

}  // namespace
}  // namespace steadyflux
