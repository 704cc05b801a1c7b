// A valid small file, then the same file broken in every way we can think of. Whatever happens, the
// reader either hands out views that lie inside the file or throws kBadInput.
#include "weights/safetensors.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <string>

#include "steadyflux/error.h"
#include "weights/checkpoint.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

const std::string kHeader = R"({"__metadata__":{"format":"pt"},)"
                            R"("a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
                            R"("empty":{"dtype":"I64","shape":[0,4],"data_offsets":[24,24]},)"
                            R"("b":{"dtype":"BF16","shape":[],"data_offsets":[24,26]}})";

std::string make_file(const std::string& header, std::size_t data_bytes) {
  std::string bytes;
  for (std::size_t i = 0; i < 8; ++i) bytes += static_cast<char>((header.size() >> (8 * i)) & 0xFF);
  return bytes + header + std::string(data_bytes, '\1');
}

class SafetensorsTest : public testing::Test {
 protected:
  SafetensorsTest() {
    std::string pattern = (fs::temp_directory_path() / "steadyflux-XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
  }
  ~SafetensorsTest() override { fs::remove_all(folder_); }

  fs::path write(const std::string& name, const std::string& bytes) const {
    // Removed first: a mapping of the old content must keep it.
    fs::remove(folder_ / name);
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
    return folder_ / name;
  }

  // "" if the file opens with sound views, else the message of the kBadInput.
  std::string verdict(const std::string& bytes) const {
    const fs::path path = write("x.safetensors", bytes);
    try {
      const SafetensorsFile file = SafetensorsFile::open(path);
      for (const auto& [name, view] : file.tensors) {
        const auto all = view.file->bytes();
        EXPECT_GE(view.data, all.data());
        EXPECT_LE(view.data + view.nbytes, all.data() + all.size());
        std::size_t nbytes = item_size(view.dtype);
        for (const auto side : view.shape) nbytes *= static_cast<std::size_t>(side);
        EXPECT_EQ(nbytes, view.nbytes);
      }
      return "";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBadInput) << error.what();
      for (const char c : std::string(error.what())) EXPECT_GE(c, ' ') << error.what();
      return error.what();
    }
  }

  void expect_refused(const std::string& header, std::size_t data_bytes,
                      const std::string& part) const {
    EXPECT_NE(verdict(make_file(header, data_bytes)).find(part), std::string::npos)
        << part << " expected, got: " << verdict(make_file(header, data_bytes));
  }

  fs::path folder_;
};

TEST_F(SafetensorsTest, ReadsAValidFile) {
  const auto file = SafetensorsFile::open(write("x.safetensors", make_file(kHeader, 26)));
  ASSERT_EQ(file.tensors.size(), 3u);
  EXPECT_EQ(file.metadata.at("format"), "pt");
  const TensorView& a = file.tensors.at("a");
  EXPECT_EQ(a.dtype, DType::kF32);
  EXPECT_EQ(a.shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(a.data, a.file->bytes().data() + 8 + kHeader.size());
  EXPECT_EQ(file.tensors.at("b").nbytes, 2u);
  EXPECT_EQ(file.tensors.at("empty").nbytes, 0u);
}

TEST_F(SafetensorsTest, EveryTruncationIsRefused) {
  const std::string bytes = make_file(kHeader, 26);
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_NE(verdict(bytes.substr(0, length)), "") << length;
  }
  EXPECT_NE(verdict(bytes.substr(0, bytes.size() - 1)).find("truncated: the header promises"),
            std::string::npos);
}

TEST_F(SafetensorsTest, FlippedHeaderBytesNeverCrash) {
  const std::string valid = make_file(kHeader, 26);
  std::mt19937 random(1);
  int refused = 0;
  for (int i = 0; i < 4000; ++i) {
    std::string bytes = valid;
    for (int flips = 1 + i % 3; flips > 0; --flips) {
      bytes[random() % (8 + kHeader.size())] = static_cast<char>(random() & 0xFF);
    }
    refused += verdict(bytes).empty() ? 0 : 1;
  }
  EXPECT_GT(refused, 3000);  // a flip inside a name or the metadata may well leave a valid file
}

TEST_F(SafetensorsTest, SaysWhatIsWrong) {
  expect_refused(R"({"a":{"dtype":"F7","shape":[1],"data_offsets":[0,4]}})", 4, "unknown dtype");
  expect_refused(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "shape holds -1");
  expect_refused(R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4, "shape holds");
  expect_refused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "needs 8 bytes");
  expect_refused(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}})", 4, "run backwards");
  expect_refused(R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
                 "too large");
  expect_refused(R"({"a":{"dtype":"U8","shape":[0,4294967296,4294967296],"data_offsets":[0,0]}})",
                 0, "too large");
  expect_refused(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                 R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
                 3, "overlap");
  expect_refused(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})", 3, "hole");
  expect_refused(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", 3, "after the last");
  expect_refused(R"({"a":{"dtype":"U8","shape":[2]}})", 2, "lacks 'data_offsets'");
  expect_refused(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":0})", 1, "twice");
  expect_refused(R"({"a":3})", 0, "expected an object");
  expect_refused("[]", 0, "expected an object");
  expect_refused("{\"\xff\":{}}", 0, "invalid UTF-8");
  expect_refused(std::string(1'000'000, '['), 0, "nested deeper");
  expect_refused(R"({"\u001b[31m\n":{"dtype":"F7","shape":[],"data_offsets":[0,1]}})", 1,
                 "\\x1B[31m\\x0A");
}

TEST_F(SafetensorsTest, RefusesWhatIsNoFile) {
  EXPECT_THROW(SafetensorsFile::open(folder_), Error);
  EXPECT_THROW(SafetensorsFile::open(folder_ / "absent.safetensors"), Error);
}

std::string one_tensor(const std::string& name) {
  return make_file("{\"" + name + R"(":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", 3);
}

class CheckpointTest : public SafetensorsTest {
 protected:
  std::string message() const {
    try {
      Checkpoint::open(folder_);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBadInput);
      return error.what();
    }
    return "";
  }
};

TEST_F(CheckpointTest, OpensShards) {
  write("model-1.safetensors", one_tensor("a"));
  write("model-2.safetensors", one_tensor("b"));
  write("model.safetensors.index.json",
        R"({"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}})");
  const Checkpoint checkpoint = Checkpoint::open(folder_);
  ASSERT_NE(checkpoint.find("a"), nullptr);
  ASSERT_NE(checkpoint.find("b"), nullptr);
  EXPECT_EQ(checkpoint.find("c"), nullptr);
  fs::remove(folder_ / "model-2.safetensors");
  EXPECT_NE(message().find("model-2.safetensors: shard not found"), std::string::npos);
  write("model-2.safetensors", one_tensor("c"));
  EXPECT_NE(message().find("lacks the tensor 'b'"), std::string::npos);
}

TEST_F(CheckpointTest, AnIndexNamesOnlyItsNeighbours) {
  for (const char* shard :
       {"\"../x.safetensors\"", "\"/x.safetensors\"", "\"\"", "3", "\"x.bin\""}) {
    write("model.safetensors.index.json", std::string(R"({"weight_map":{"a":)") + shard + "}}");
    EXPECT_NE(message().find("expected the plain name"), std::string::npos) << shard;
  }
}

TEST_F(CheckpointTest, ChoosesTheFile) {
  EXPECT_NE(message().find("no weights"), std::string::npos);
  write("model.bin", "x");
  EXPECT_NE(message().find("pickled"), std::string::npos);
  write("model.fp16.safetensors", one_tensor("variant"));
  EXPECT_NE(Checkpoint::open(folder_).find("variant"), nullptr);
  write("model.bf16.safetensors", one_tensor("variant"));
  EXPECT_NE(message().find("several variants"), std::string::npos);
  write("model.safetensors", one_tensor("plain"));
  EXPECT_NE(Checkpoint::open(folder_).find("plain"), nullptr);
}

}  // namespace
}  // namespace steadyflux
