// A file by the gguf package, then files made byte by byte that are broken in every way we can
// think of. Whatever happens, the reader either hands out views that lie inside the file or throws
// kBadInput.
#include "weights/gguf.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>

#include "base/json.h"
#include "steadyflux/error.h"
#include "temp_folder.h"

namespace steadyflux {
namespace {

constexpr std::uint32_t kF32 = 0;
constexpr std::uint32_t kQ8_0 = 8;
constexpr std::uint32_t kUint8 = 0, kUint32 = 4, kInt32 = 5, kFloat32 = 6, kBool = 7, kString = 8,
                        kArray = 9, kUint64 = 10;

template <typename T>
std::string raw(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

std::string text(const std::string& value) { return raw<std::uint64_t>(value.size()) + value; }

std::string entry(const std::string& key, std::uint32_t type, const std::string& value) {
  return text(key) + raw(type) + value;
}

std::string array(std::uint32_t type, std::uint64_t count, const std::string& elements) {
  return raw(type) + raw(count) + elements;
}

// `sides` in GGUF's order: the row first.
std::string tensor(const std::string& name, const std::vector<std::uint64_t>& sides,
                   std::uint32_t type, std::uint64_t offset) {
  std::string bytes = text(name) + raw(static_cast<std::uint32_t>(sides.size()));
  for (const std::uint64_t side : sides) bytes += raw(side);
  return bytes + raw(type) + raw(offset);
}

struct Content {
  std::vector<std::string> metadata = {};
  std::vector<std::string> tensors = {};
  std::size_t data_bytes = 0;
  std::uint32_t version = 3;
  std::size_t alignment = 32;
};

std::string make_file(const Content& content) {
  std::string bytes = "GGUF" + raw(content.version) + raw<std::uint64_t>(content.tensors.size()) +
                      raw<std::uint64_t>(content.metadata.size());
  for (const auto& one : content.metadata) bytes += one;
  for (const auto& one : content.tensors) bytes += one;
  bytes.resize((bytes.size() + content.alignment - 1) / content.alignment * content.alignment);
  return bytes + std::string(content.data_bytes, '\1');
}

// Two tensors, 24 and 68 bytes: [2, 3] of F32, and [2, 32] of Q8_0.
Content good() {
  return {.metadata = {entry("general.architecture", kString, text("flux")),
                       entry("list", kArray, array(kInt32, 2, raw(1) + raw(-2)))},
          .tensors = {tensor("a", {3, 2}, kF32, 0), tensor("b", {32, 2}, kQ8_0, 32)},
          .data_bytes = 32 + 68};
}

class GgufTest : public testing::Test {
 protected:
  GgufFile open(const std::string& bytes) const {
    // Removed first: a mapping of the old content must keep it.
    std::filesystem::remove(folder_ / "x.gguf");
    folder_.write("x.gguf", bytes);
    return GgufFile::open(folder_ / "x.gguf");
  }

  // "" if the file opens with sound views, else the message of the kBadInput.
  std::string verdict(const std::string& bytes) const {
    try {
      const GgufFile file = open(bytes);
      EXPECT_NO_THROW(static_cast<void>(file.metadata.dump()));
      for (const auto& [name, view] : file.tensors) {
        const auto all = view.file->bytes();
        EXPECT_GE(view.data, all.data());
        EXPECT_LE(view.data + view.nbytes, all.data() + all.size());
        std::int64_t values = 1;
        for (const auto side : view.shape) values *= side;
        const std::int64_t items = values / item_values(view.dtype);
        EXPECT_EQ(static_cast<std::size_t>(items) * item_size(view.dtype), view.nbytes);
        EXPECT_EQ(view.shape.empty() ? !is_block(view.dtype)
                                     : view.shape.back() % item_values(view.dtype) == 0,
                  true);
      }
      return "";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBadInput) << error.what();
      EXPECT_NE(std::string(error.what()).find("x.gguf: "), std::string::npos) << error.what();
      for (const char c : std::string(error.what())) EXPECT_TRUE(c >= ' ' && c <= '~');
      return error.what();
    }
  }

  void expect_refused(const std::string& bytes, const std::string& part) const {
    const std::string message = verdict(bytes);
    EXPECT_NE(message.find(part), std::string::npos) << part << " expected, got: " << message;
  }
  void expect_metadata_refused(const std::string& one, const std::string& part) const {
    expect_refused(make_file({.metadata = {one}}), part);
  }
  void expect_tensor_refused(const std::string& one, const std::string& part) const {
    expect_refused(make_file({.tensors = {one}, .data_bytes = 1024}), part);
  }

  const TempFolder folder_;
};

TEST_F(GgufTest, ReadsWhatTheGgufPackageWrote) {
  const std::string golden = std::string(STEADYFLUX_SOURCE_DIR) + "/tests/goldens/gguf/reader";
  const auto expected = read_json_object(golden + ".json");
  const auto file = GgufFile::open(golden + ".gguf");
  EXPECT_EQ(file.version, 3u);
  EXPECT_EQ(file.metadata, expected.at("metadata"));
  EXPECT_EQ(file.tensors.size(), expected.at("tensors").size());
  EXPECT_EQ(file.tensors.size(), 23u);
  for (const auto& [name, tensor] : expected.at("tensors").items()) {
    ASSERT_TRUE(file.tensors.contains(name)) << name;
    const TensorView& view = file.tensors.at(name);
    EXPECT_EQ(to_string(view.dtype), tensor.at("dtype"));
    EXPECT_EQ(view.shape, tensor.at("shape").get<std::vector<std::int64_t>>()) << name;
    std::string data;
    for (std::size_t i = 0; i < view.nbytes; ++i) {
      constexpr const char* kDigits = "0123456789abcdef";
      data += kDigits[static_cast<unsigned char>(view.data[i]) >> 4];
      data += kDigits[static_cast<unsigned char>(view.data[i]) & 15];
    }
    EXPECT_EQ(data, tensor.at("data")) << name;
  }
}

TEST_F(GgufTest, ReadsAFileInPlace) {
  for (const std::uint32_t version : {2u, 3u}) {
    Content content = good();
    content.version = version;
    const auto file = open(make_file(content));
    EXPECT_EQ(file.version, version);
    EXPECT_EQ(file.metadata.dump(), R"({"general.architecture":"flux","list":[1,-2]})");
    ASSERT_EQ(file.tensors.size(), 2u);
    const TensorView& b = file.tensors.at("b");
    EXPECT_EQ(b.dtype, DType::kQ8_0);
    EXPECT_EQ(b.shape, (std::vector<std::int64_t>{2, 32}));
    EXPECT_EQ(b.nbytes, 68u);
    EXPECT_EQ(b.data + b.nbytes, b.file->bytes().data() + b.file->bytes().size());
    EXPECT_EQ(file.tensors.at("a").data + 32, b.data);
  }
}

TEST_F(GgufTest, NumbersKeepTheirValues) {
  const auto file = open(make_file(
      {.metadata = {entry("nan", kFloat32, raw(std::nanf(""))), entry("float", kFloat32, raw(0.1f)),
                    entry("large", kUint64, raw(std::numeric_limits<std::uint64_t>::max())),
                    entry("none", kArray, array(kString, 0, "")), entry("no", kBool, raw('\0'))}}));
  EXPECT_TRUE(std::isnan(file.metadata.at("nan").get<double>()));
  EXPECT_EQ(file.metadata.at("float").get<double>(), static_cast<double>(0.1f));
  EXPECT_EQ(file.metadata.at("large").get<std::uint64_t>(),
            std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(file.metadata.at("none").dump(), "[]");
  EXPECT_EQ(file.metadata.at("no"), false);
}

TEST_F(GgufTest, EveryTypeHasItsNumberBackAndForth) {
  int known = 0;
  for (std::uint32_t type = 0; type < 100; ++type) {
    const auto dtype = dtype_of_ggml_type(type);
    if (!dtype) continue;
    ++known;
    EXPECT_EQ(ggml_type_of(*dtype), type);
  }
  EXPECT_EQ(known, 20);
  EXPECT_EQ(ggml_type_of(DType::kF8E4M3), std::nullopt);
}

TEST_F(GgufTest, IsRecognisedByItsBeginning) {
  const auto is = [](const std::string& bytes) { return is_gguf(std::as_bytes(std::span(bytes))); };
  EXPECT_TRUE(is("GGUF"));
  EXPECT_TRUE(is(make_file({})));
  EXPECT_FALSE(is("GGU"));
  EXPECT_FALSE(is(""));
  EXPECT_FALSE(is("GGML...."));
}

TEST_F(GgufTest, EveryTruncationIsRefused) {
  const std::string bytes = make_file(good());
  EXPECT_EQ(verdict(bytes), "");
  for (std::size_t size = 1; size < bytes.size(); ++size) {
    EXPECT_NE(verdict(bytes.substr(0, size)), "") << size;
  }
  expect_refused(bytes.substr(0, bytes.size() - 1), "tensor 'b': truncated: its 68 bytes begin at");
  expect_refused(bytes.substr(0, 30), "truncated or damaged");
}

TEST_F(GgufTest, AfterTheLastTensorThereIsOnlyPadding) {
  const std::string bytes = make_file(good());  // the last 68 bytes leave room for 28
  EXPECT_EQ(verdict(bytes + std::string(28, '\0')), "");
  expect_refused(bytes + std::string(29, '\0'), "1 bytes lie after the last tensor");
  const std::string empty = make_file({});
  EXPECT_EQ(verdict(empty), "");
  EXPECT_EQ(verdict(empty.substr(0, 24)), "");
  expect_refused(empty + "x", "1 bytes lie after the last tensor");
}

TEST_F(GgufTest, EveryDamagedByteIsSurvived) {
  const std::string bytes = make_file(good());
  std::mt19937 random(1);
  for (std::size_t i = 0; i < bytes.size() - 100; ++i) {
    for (const int value : {0x00, 0x01, 0x7F, 0x80, 0xFF, static_cast<int>(random() % 256)}) {
      std::string damaged = bytes;
      damaged[i] = static_cast<char>(value);
      verdict(damaged);
    }
  }
}

TEST_F(GgufTest, OtherFilesAndVersionsAreNamed) {
  expect_refused(
      "\x7F"
      "ELF and more",
      "not a GGUF file: it begins with '\\x7FELF'");
  expect_refused("GG", "not a GGUF file");
  Content content = good();
  content.version = 1;
  expect_refused(make_file(content), "GGUF version 1, read are 2 and 3");
  content.version = 4;
  expect_refused(make_file(content), "GGUF version 4");
  content.version = 0;
  expect_refused(make_file(content), "GGUF version 0");
  content.version = 0x03000000;
  expect_refused(make_file(content), "big-endian");
}

TEST_F(GgufTest, CountsBeyondTheFileAreRefusedAtOnce) {
  const std::string start = "GGUF" + raw(3u);
  for (const std::uint64_t count :
       {std::uint64_t{1}, std::uint64_t{1} << 32, std::uint64_t{1} << 62, ~std::uint64_t{0}}) {
    const std::string rest(10, '\0');
    expect_refused(start + raw(count) + raw<std::uint64_t>(0) + rest, "tensors, for which");
    expect_refused(start + raw<std::uint64_t>(0) + raw(count) + rest, "metadata, for which");
    for (const std::uint32_t type : {kUint8, kString, kArray, kUint64}) {
      expect_metadata_refused(entry("a", kArray, array(type, count + 40, "")), "too few");
    }
    expect_metadata_refused(entry("a", kString, raw(count + 40)), "at byte");
    expect_refused(start + raw<std::uint64_t>(0) + raw<std::uint64_t>(1) + raw(count + 40) + rest,
                   "at byte");
  }
}

TEST_F(GgufTest, WhatTheFileCouldHoldIsLimitedToo) {
  const std::uint64_t many = (1 << 20) + 1;
  const std::string start = "GGUF" + raw(3u);
  const std::string rest(many * 24, '\0');
  expect_refused(start + raw(many) + raw<std::uint64_t>(0) + rest, "at most 1048576 are read");
  expect_refused(start + raw<std::uint64_t>(0) + raw(many) + rest, "at most 1048576 are read");
  const std::uint64_t half = 6'000'000;
  const auto list = array(kUint8, half, std::string(half, '\0'));
  EXPECT_EQ(verdict(make_file({.metadata = {entry("a", kArray, list)}})), "");
  expect_refused(make_file({.metadata = {entry("a", kArray, list), entry("b", kArray, list)}}),
                 "metadata 'b': it should have 6000000 elements, at most 4000000 are read");
}

TEST_F(GgufTest, MetadataThatDoesNotHoldIsRefused) {
  expect_metadata_refused(entry("", kUint8, "a"), "metadata entry 0: its key is empty");
  expect_metadata_refused(entry("a\xFF\n", kUint8, "a"), "its key is not UTF-8: 'a\\xFF\\x0A'");
  expect_metadata_refused(entry(std::string(65536, 'k'), kUint8, "a"), "at most 65535");
  expect_metadata_refused(entry("a\x1B", 13, "a"), "metadata 'a\\x1B': unknown type 13");
  expect_metadata_refused(entry("a", ~0u, "a"), "unknown type 4294967295");
  expect_metadata_refused(entry("a", kArray, array(13, 1, "a")), "unknown type 13 of its elements");
  expect_metadata_refused(entry("a", kArray, array(13, 0, "")), "unknown type 13 of its elements");
  expect_metadata_refused(entry("a", kBool, raw('\2')), "a bool of 2");
  expect_metadata_refused(entry("a", kArray, array(kBool, 2, "\1\2")), "a bool of 2");
  expect_metadata_refused(entry("a", kString, text("\xC0\x80")), "its text is not UTF-8");
  expect_metadata_refused(entry("a", kArray, array(kString, 1, text("\xFF"))), "is not UTF-8");
  expect_refused(make_file({.metadata = {entry("a", kUint8, "a"), entry("a", kBool, "\1")}}),
                 "metadata 'a': given twice");
}

TEST_F(GgufTest, ArraysNestToALimit) {
  const auto nested = [](int levels) {
    std::string value = array(kUint8, 1, "a");
    for (int i = 1; i < levels; ++i) value = array(kArray, 1, value);
    return make_file({.metadata = {entry("a", kArray, value)}});
  };
  EXPECT_EQ(open(nested(8)).metadata.at("a").dump(), "[[[[[[[[97]]]]]]]]");
  expect_refused(nested(9), "nested deeper than 8 levels");
  expect_refused(nested(1000), "nested deeper than 8 levels");
}

TEST_F(GgufTest, AlignmentIsWhatTheFileSays) {
  const auto aligned = [](const std::string& value, std::uint32_t type, std::size_t alignment) {
    return make_file({.metadata = {entry("general.alignment", type, value)},
                      .tensors = {tensor("a", {1}, kF32, 0), tensor("b", {1}, kF32, alignment)},
                      .data_bytes = alignment + 4,
                      .alignment = alignment});
  };
  for (const std::uint32_t alignment : {4u, 8u, 64u, 4096u}) {
    const auto file = open(aligned(raw(alignment), kUint32, alignment));
    const TensorView& b = file.tensors.at("b");
    EXPECT_EQ(static_cast<std::size_t>(b.data - b.file->bytes().data()) % alignment, 0u);
    EXPECT_EQ(b.data + 4, b.file->bytes().data() + b.file->bytes().size());
  }
  for (const std::uint32_t alignment : {0u, 3u, 48u, ~0u}) {
    expect_refused(aligned(raw(alignment), kUint32, 32), "expected a power of two");
  }
  expect_refused(aligned(raw(32), kInt32, 32), "expected a power of two");
  expect_refused(aligned(text("32"), kString, 32), "string, expected a power of two");
  expect_refused(aligned(raw(std::uint64_t{1} << 63), kUint64, 32), "expected a power of two");
  expect_refused(aligned(raw(1u << 31), kUint32, 32), "expected a multiple of 2147483648");
}

TEST_F(GgufTest, TensorsThatDoNotHoldAreRefused) {
  const std::uint64_t large = std::uint64_t{1} << 32;
  expect_tensor_refused(tensor("a\xFF", {1}, kF32, 0), "its name is not UTF-8: 'a\\xFF'");
  expect_tensor_refused(tensor("a\n", {1, 1, 1, 1, 1}, kF32, 0), "'a\\x0A': 5 dimensions");
  expect_tensor_refused(text("a") + raw(~0u) + std::string(64, '\0'), "4294967295 dimensions");
  expect_tensor_refused(tensor("a", {3, 0}, kF32, 0), "its shape holds 0");
  expect_tensor_refused(tensor("a", {~std::uint64_t{0}}, kF32, 0), "holds 18446744073709551615");
  expect_tensor_refused(tensor("a", {large, large}, kF32, 0), "too large for any file");
  expect_tensor_refused(tensor("a", {large, large, large, large}, kF32, 0), "too large for any");
  expect_tensor_refused(tensor("a", {large, large / 4}, kF32, 0), "too large for any file");
  expect_tensor_refused(tensor("a", {large, large / 16}, kF32, 0), "truncated: its");
  expect_tensor_refused(tensor("a", {33, 32}, kQ8_0, 0),
                        "its shape [32, 33] has rows of 33 values, expected a multiple of the 32");
  expect_tensor_refused(tensor("a", {}, kQ8_0, 0), "rows of 1 values");
  expect_refused(make_file({.tensors = {tensor("a", {1}, kF32, 0), tensor("a", {1}, kF32, 32)},
                            .data_bytes = 36}),
                 "tensor 'a': given twice");
}

TEST_F(GgufTest, TypesThatAreNotReadAreNamed) {
  const auto refused = [&](std::uint32_t type, const std::string& part) {
    expect_tensor_refused(tensor("a", {256}, type, 0), "tensor 'a': its type " + part);
    expect_tensor_refused(tensor("a", {256}, type, 0), "read are F32, F16, BF16");
  };
  refused(16, "IQ2_XXS (16) cannot be read");
  refused(9, "Q8_1 (9) cannot be read");
  refused(34, "TQ1_0 (34) cannot be read");
  refused(39, "MXFP4 (39) cannot be read");
  refused(4, "Q4_2 (4) was removed from GGUF");
  refused(31, "Q4_0_4_4 (31) was removed from GGUF");
  refused(99, "99 is unknown");
  refused(~0u, "4294967295 is unknown");
}

TEST_F(GgufTest, DataIsCoveredExactly) {
  const auto at = [](std::uint64_t first, std::uint64_t second) {
    return make_file(
        {.tensors = {tensor("a", {9}, kF32, first), tensor("b", {1}, kF32, second)},  // 36, 4
         .data_bytes = 100});
  };
  EXPECT_NE(verdict(at(0, 64)), "");  // 68 bytes, and 28 of padding
  const std::string fitting = at(0, 64).substr(0, at(0, 64).size() - 4);
  EXPECT_EQ(verdict(fitting), "");
  EXPECT_EQ(verdict(make_file({.tensors = {tensor("a", {9}, kF32, 32), tensor("b", {1}, kF32, 0)},
                               .data_bytes = 68})),
            "");  // in any order
  expect_refused(at(0, 33), "tensor 'b': its data begins at 33, expected a multiple of 32");
  expect_refused(at(0, 32),
                 "tensor 'b': its data begins at 32, but the tensors before it end at "
                 "64: they overlap");
  expect_refused(at(0, 0), "they overlap");
  expect_refused(at(0, 96), "there is a hole");
  expect_refused(at(32, 96), "there is a hole");
  expect_refused(at(0, ~std::uint64_t{31}), "there is a hole");
  expect_refused(make_file({.tensors = {tensor("a", {26}, kF32, 0)}, .data_bytes = 100}),
                 "tensor 'a': truncated: its 104 bytes begin at");
}

TEST_F(GgufTest, OriginalShapesAreApplied) {
  const auto with = [](std::uint32_t type, const std::string& value, std::uint32_t tensor_type) {
    return make_file({.metadata = {entry("comfy.gguf.orig_shape.a", type, value),
                                   entry("comfy.gguf.orig_shape.none", kUint8, "x")},
                      .tensors = {tensor("a", {64, 2}, tensor_type, 0)},
                      .data_bytes = tensor_type == kF32 ? 512u : 136u});
  };
  const auto sides = [](const std::vector<std::int32_t>& values) {
    std::string elements;
    for (const auto value : values) elements += raw(value);
    return array(kInt32, values.size(), elements);
  };
  using Shape = std::vector<std::int64_t>;
  const auto shape = [&](const std::string& bytes) { return open(bytes).tensors.at("a").shape; };
  EXPECT_EQ(shape(with(kArray, sides({4, 8, 2, 2, 1}), kF32)), (Shape{4, 8, 2, 2, 1}));
  EXPECT_EQ(shape(with(kArray, sides({4, 32}), kQ8_0)), (Shape{4, 32}));
  expect_refused(with(kArray, sides({4, 16}), kF32),
                 "its original shape in the metadata is [4, 16]"
                 ", which does not have the 128 values");
  expect_refused(with(kArray, sides({}), kF32), "does not have the 128 values of [2, 64]");
  expect_refused(with(kArray, sides({-4, -32}), kF32), "holds -4, expected integers from 1");
  expect_refused(with(kArray, sides({0}), kF32), "holds 0");
  expect_refused(with(kArray, sides({8, 16}), kQ8_0), "its original shape [8, 16] has rows of 16");
  expect_refused(with(kArray, sides(std::vector<std::int32_t>(16, 1 << 30)), kF32), "128 values");
  expect_refused(with(kArray, sides(std::vector<std::int32_t>(17, 1)), kF32), "at most 16");
  expect_refused(with(kString, text("[4, 32]"), kF32), "not an array");
  expect_refused(with(kArray, array(kFloat32, 1, raw(128.0f)), kF32), "holds 128.0");
  expect_refused(with(kArray, array(kString, 1, text("\x1B")), kF32), "holds string");
  expect_refused(with(kArray, array(kUint64, 1, raw(~std::uint64_t{0})), kF32),
                 "holds 18446744073709551615");
}

}  // namespace
}  // namespace steadyflux
