// What is written must read back the same, byte for byte, and lie where readers that map the file
// want it.
#include "weights/safetensors_writer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "expect_error.h"
#include "temp_folder.h"
#include "weights/safetensors.h"

namespace steadyflux {
namespace {

std::vector<std::byte> counting(std::size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 7 + 1);
  return bytes;
}

std::string as_string(const std::vector<std::uint8_t>& bytes) {
  return {bytes.begin(), bytes.end()};
}

std::vector<std::byte> copy_of(const TensorView& view) {
  return {view.data, view.data + view.nbytes};
}

TEST(SafetensorsWriter, WhatIsWrittenReadsBack) {
  const TempFolder folder;
  const auto bytes3 = counting(3);
  const auto words = counting(10);
  const auto doubles = counting(16);
  const std::map<std::string, std::string> metadata = {
      {"format", "pt"}, {"quote\"\\\n", "\xC3\xA9\xF0\x9F\x8D\x8E"}, {"nul", std::string(1, '\0')}};
  folder.write("x.safetensors",
               as_string(safetensors_bytes({{{"odd", DType::kU8, {3}}, bytes3},
                                            {{"words", DType::kBF16, {1, 5}}, words},
                                            {{"none", DType::kF32, {0, 4}}, {}},
                                            {{"doubles", DType::kF64, {2}}, doubles},
                                            {{"scalar", DType::kF8E4M3, {}}, counting(1)}},
                                           metadata)));
  const auto file = SafetensorsFile::open(folder / "x.safetensors");
  EXPECT_EQ(file.metadata, metadata);
  ASSERT_EQ(file.tensors.size(), 5u);
  EXPECT_EQ(copy_of(file.tensors.at("odd")), bytes3);
  EXPECT_EQ(copy_of(file.tensors.at("words")), words);
  EXPECT_EQ(copy_of(file.tensors.at("doubles")), doubles);
  EXPECT_EQ(copy_of(file.tensors.at("scalar")), counting(1));
  EXPECT_EQ(file.tensors.at("words").dtype, DType::kBF16);
  EXPECT_EQ(file.tensors.at("words").shape, (std::vector<std::int64_t>{1, 5}));
  EXPECT_EQ(file.tensors.at("none").shape, (std::vector<std::int64_t>{0, 4}));
  for (const auto& [name, view] : file.tensors) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(view.data) % item_size(view.dtype), 0u) << name;
  }
}

TEST(SafetensorsWriter, DataBeginsAtAMultipleOfEight) {
  std::string name;
  for (int i = 0; i < 16; ++i) {
    name += "n";
    const auto header = safetensors_header(std::vector<TensorLayout>{{name, DType::kU8, {1}}}, {});
    std::uint64_t length = 0;
    std::memcpy(&length, header.data(), sizeof length);
    EXPECT_EQ(header.size(), 8 + length);
    EXPECT_EQ(length % 8, 0u);
    EXPECT_EQ(header[8], '{');  // the format wants it first
  }
}

TEST(SafetensorsWriter, AnEmptyFileReads) {
  const TempFolder folder;
  folder.write("x.safetensors", as_string(safetensors_bytes({}, {})));
  EXPECT_TRUE(SafetensorsFile::open(folder / "x.safetensors").tensors.empty());
}

TEST(SafetensorsWriter, RefusesWhatNoFileCanHold) {
  const auto one = counting(1);
  const auto write = [&](const TensorLayout& layout) { safetensors_bytes({{layout, one}}, {}); };
  expect_error(ErrorKind::kInternal, "takes 2 bytes, given are 1", [&] {
    write({"a", DType::kU8, {2}});
  });
  expect_error(ErrorKind::kInternal, "its shape is [-1]", [&] { write({"a", DType::kU8, {-1}}); });
  expect_error(ErrorKind::kInternal, "its shape is [4294967296, 4294967296]", [&] {
    write({"a", DType::kU8, {1ll << 32, 1ll << 32}});
  });
  expect_error(ErrorKind::kInternal, "its shape is [0, 4294967296, 4294967296]", [&] {
    write({"a", DType::kU8, {0, 1ll << 32, 1ll << 32}});
  });
  expect_error(ErrorKind::kBadInput, "not UTF-8", [&] { write({"\xFF", DType::kU8, {1}}); });
  expect_error(ErrorKind::kInternal, "'__metadata__' cannot be written twice", [&] {
    write({"__metadata__", DType::kU8, {1}});
  });
  expect_error(ErrorKind::kInternal, "'a' cannot be written twice", [&] {
    safetensors_bytes({{{"a", DType::kU8, {1}}, one}, {{"a", DType::kU8, {1}}, one}}, {});
  });
  expect_error(ErrorKind::kBadInput, "not UTF-8", [&] {
    safetensors_bytes({}, {{"key", "\xC3"}});
  });
  expect_error(ErrorKind::kBadInput, "write several files", [&] {
    safetensors_bytes({}, {{"key", std::string(100'000'000, 'x')}});
  });
}

}  // namespace
}  // namespace steadyflux
