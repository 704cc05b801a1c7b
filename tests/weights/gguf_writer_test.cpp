// What is written must be what the gguf package writes of the same values, byte for byte, and read
// back the same. What cannot be written is refused before the first byte of data.
#include "weights/gguf_writer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>

#include "expect_error.h"
#include "temp_folder.h"
#include "weights/gguf.h"

namespace steadyflux {
namespace {

std::vector<std::byte> counting(std::size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 7 + 1);
  return bytes;
}

GgufWriter::Sink into(std::string& file) {
  return [&file](std::span<const std::byte> bytes) {
    file.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
}

void expect_refused(ErrorKind kind, const std::string& part, std::vector<TensorLayout> tensors,
                    const GgufMetadata& metadata = {}) {
  std::string file;
  expect_error(kind, part, [&] { GgufWriter(std::move(tensors), metadata, into(file)); });
  EXPECT_EQ(file, "");
}

// As scripts/make_gguf_golden.py has them.
const GgufMetadata kMetadata = {
    {"general.architecture", "flux"},
    {"test.uint8", std::uint8_t{200}},
    {"test.int8", std::int8_t{-100}},
    {"test.uint16", std::uint16_t{40000}},
    {"test.int16", std::int16_t{-30000}},
    {"general.quantization_version", 2u},
    {"test.int32", -5},
    {"test.uint64", std::uint64_t{1} << 63},
    {"test.int64", -(std::int64_t{1} << 62)},
    {"test.float32", 0.1f},
    {"test.float64", 0.1},
    {"test.bool", true},
    {"test.string", "a cat, \xE7\x8C\xAB"},
    {"test.int32s", std::vector<std::int32_t>{16, 4, 2, 2}},
    {"test.float32s", std::vector<float>{0.1f, -1.0f}},
    {"test.strings", std::vector<std::string>{"a", "\xC3\xA9"}},
};
const std::vector<TensorLayout> kTensors = {{"a", DType::kQ8_0, {2, 64}},
                                            {"b.weight", DType::kF16, {3, 5}},
                                            {"c", DType::kQ4_K, {2, 1, 256}},
                                            {"d", DType::kF32, {1}},
                                            {"e", DType::kBF16, {2, 3}}};
constexpr std::size_t kSizes[] = {136, 30, 288, 4, 12};

TEST(GgufWriter, WritesWhatTheGgufPackageWrites) {
  std::string file;
  GgufWriter writer(kTensors, kMetadata, into(file));
  for (std::size_t i = 0; i < kTensors.size(); ++i) {
    const auto data = counting(kSizes[i]);
    // In two pieces, of which the second is empty for the shortest.
    const std::size_t half = std::min<std::size_t>(data.size(), 10);
    writer.write(kTensors[i].name, std::span(data).first(half));
    if (half < data.size()) writer.write(kTensors[i].name, std::span(data).subspan(half));
  }
  writer.finish();
  EXPECT_EQ(writer.file_bytes(), file.size());
  std::ifstream golden(std::string(STEADYFLUX_SOURCE_DIR) + "/tests/goldens/gguf/written.gguf",
                       std::ios::binary);
  EXPECT_TRUE(file == std::string(std::istreambuf_iterator<char>(golden), {}));
}

TEST(GgufWriter, WhatIsWrittenReadsBack) {
  const TempFolder folder;
  std::string bytes;
  const std::string long_name(127, 'n');
  const std::vector<TensorLayout> tensors = {{"scalar", DType::kI64, {}},
                                             {long_name, DType::kIQ4_XS, {1, 2, 3, 256}},
                                             {"w", DType::kI8, {3, 2}}};
  const GgufMetadata metadata = {{"none", std::vector<std::string>{}},
                                 {"nul", std::string(1, '\0')}};
  GgufWriter writer(tensors, metadata, into(bytes));
  writer.write("scalar", counting(8));
  writer.write(long_name, counting(816));
  writer.write("w", counting(6));
  writer.finish();
  EXPECT_EQ(bytes.size() % 32, 0u);
  folder.write("x.gguf", bytes);
  const auto file = GgufFile::open(folder / "x.gguf");
  EXPECT_EQ(file.version, 3u);
  EXPECT_EQ(file.metadata.dump(), R"({"none":[],"nul":"\u0000"})");
  ASSERT_EQ(file.tensors.size(), 3u);
  for (const TensorLayout& layout : tensors) {
    const TensorView& view = file.tensors.at(layout.name);
    EXPECT_EQ(view.dtype, layout.dtype);
    EXPECT_EQ(view.shape, layout.shape);
    EXPECT_EQ((std::vector(view.data, view.data + view.nbytes)), counting(view.nbytes));
    EXPECT_EQ((view.data - view.file->bytes().data()) % 32, 0);
  }
  EXPECT_EQ(file.tensors.at(long_name).nbytes, 816u);
}

TEST(GgufWriter, AnEmptyFileReads) {
  const TempFolder folder;
  std::string bytes;
  const GgufWriter writer({}, {}, into(bytes));
  writer.finish();
  EXPECT_EQ(writer.file_bytes(), bytes.size());
  folder.write("x.gguf", bytes);
  EXPECT_TRUE(GgufFile::open(folder / "x.gguf").tensors.empty());
}

TEST(GgufWriter, RefusesWhatNoFileCanHold) {
  constexpr auto kInternal = ErrorKind::kInternal;
  expect_refused(kInternal, "[2, 33]", {{"a", DType::kQ8_0, {2, 33}}});
  expect_refused(kInternal, "Q4_K []", {{"a", DType::kQ4_K, {}}});
  expect_refused(kInternal, "[0, 2]", {{"a", DType::kF32, {0, 2}}});
  expect_refused(kInternal, "[2, 0]", {{"a", DType::kQ8_0, {2, 0}}});
  expect_refused(kInternal, "[2, -32]", {{"a", DType::kQ8_0, {2, -32}}});
  expect_refused(kInternal, "its shape is", {{"a", DType::kF32, {1, 1, 1, 1, 1}}});
  const std::int64_t large = std::int64_t{1} << 40;
  expect_refused(kInternal, "its shape is", {{"a", DType::kF32, {large, large}}});
  const std::int64_t half = std::int64_t{1} << 62;
  expect_refused(kInternal, "no file is so large",
                 {{"a", DType::kI8, {half}}, {"b", DType::kI8, {half}}});
  expect_refused(kInternal, "GGUF has no F8_E4M3", {{"a", DType::kF8E4M3, {1}}});
  expect_refused(kInternal, "given twice", {{"a", DType::kF32, {1}}, {"a", DType::kF32, {1}}});
  expect_refused(kInternal, "1 to 127 bytes", {{"", DType::kF32, {1}}});
  expect_refused(kInternal, "1 to 127 bytes", {{std::string(128, 'n'), DType::kF32, {1}}});
  expect_refused(ErrorKind::kBadInput, "not UTF-8", {{"\xFF", DType::kF32, {1}}});
}

TEST(GgufWriter, RefusesMetadataThatNoFileCanHold) {
  constexpr auto kInternal = ErrorKind::kInternal;
  expect_refused(kInternal, "cannot be written", {}, {{"a", 1}, {"a", 2}});
  expect_refused(kInternal, "cannot be written", {}, {{"", 1}});
  expect_refused(kInternal, "cannot be written", {}, {{std::string(65536, 'k'), 1}});
  expect_refused(kInternal, "reserved", {}, {{"general.alignment", 64u}});
  expect_refused(ErrorKind::kBadInput, "not UTF-8", {}, {{"\xFF", 1}});
  expect_refused(ErrorKind::kBadInput, "not UTF-8", {}, {{"a", "\xFF"}});
  expect_refused(ErrorKind::kBadInput, "not UTF-8", {},
                 {{"a", std::vector<std::string>{"b", "\xFF"}}});
}

TEST(GgufWriter, DataComesInTheDeclaredOrderAndSize) {
  std::string file;
  const auto data = counting(9);
  GgufWriter writer({{"a", DType::kF32, {2}}, {"b", DType::kI8, {3}}}, {}, into(file));
  const auto refused = [&](const std::string& part, const std::string& name, std::size_t size) {
    const std::string before = file;
    expect_error(ErrorKind::kInternal, part,
                 [&] { writer.write(name, std::span(data).first(size)); });
    EXPECT_EQ(file, before);
  };
  refused("its turn is after 'a'", "b", 3);
  refused("it takes 8 bytes, given are 9", "a", 9);
  writer.write("a", std::span(data).first(5));
  refused("it takes 8 bytes, given are 9", "a", 4);
  refused("its turn is after 'a'", "b", 3);
  expect_error(ErrorKind::kInternal, "it takes 8 bytes, given are 5", [&] { writer.finish(); });
  writer.write("a", std::span(data).first(3));
  expect_error(ErrorKind::kInternal, "tensor 'b'", [&] { writer.finish(); });
  writer.write("b", std::span(data).first(3));
  refused("all that were declared are complete", "b", 1);
  writer.finish();
  EXPECT_EQ(file.size(), writer.file_bytes());
}

TEST(GgufWriter, WhatTheSinkThrowsComesOut) {
  EXPECT_THROW(GgufWriter({}, {}, [](std::span<const std::byte>) { throw 1; }), int);
}

}  // namespace
}  // namespace steadyflux
