// Files of embeddings: written and read back, as Python writes them, damaged, and of other kinds.
#include "embeddings/prompt_embeds_file.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <random>

#include "embeddings/embeds_for_tests.h"
#include "expect_error.h"
#include "temp_folder.h"
#include "weights/safetensors_writer.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

struct Tensor {
  std::string name;
  DType dtype;
  std::vector<std::int64_t> shape;
};

// A file with such tensors, their bytes counting up from 0 in each.
void write_tensors(const TempFolder& folder, const std::vector<Tensor>& tensors,
                   const std::map<std::string, std::string>& metadata = {}) {
  std::vector<std::vector<std::byte>> values;
  std::vector<TensorToWrite> list;
  values.reserve(tensors.size());
  for (const Tensor& tensor : tensors) {
    const TensorLayout layout{tensor.name, tensor.dtype, tensor.shape};
    values.emplace_back(tensor_bytes(layout));
    for (std::size_t i = 0; i < values.back().size(); ++i) {
      values.back()[i] = static_cast<std::byte>(i);
    }
    list.push_back({layout, values.back()});
  }
  const auto bytes = safetensors_bytes(list, metadata);
  folder.write("e.safetensors", {bytes.begin(), bytes.end()});
}

StoredEmbeds without_values(StoredEmbeds embeds) {
  embeds.prompt_embeds.clear();
  embeds.pooled.clear();
  return embeds;
}

TEST(PromptEmbedsFile, WhatIsWrittenReadsBack) {
  const TempFolder folder;
  std::vector<StoredEmbeds> embeds = {
      make_embeds("a red apple", 1), make_embeds("", 2),
      make_embeds("quotes \" and \\ and\nlines, \xF0\x9F\x8D\x8E", 3, 7)};
  embeds[0].loras = "none";
  embeds[2].loras = "0123456789abcdef:0.8";
  write_prompt_embeds(folder / "e.safetensors", embeds);
  const auto read = read_prompt_embeds(folder / "e.safetensors");
  ASSERT_EQ(read.size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_TRUE(same_embeds(read[i], embeds[i])) << i;
  const PromptEmbedsFile file(folder / "e.safetensors");
  EXPECT_TRUE(same_embeds(file.info(1), without_values(embeds[1])));
  EXPECT_TRUE(same_embeds(file.load(2), embeds[2]));
  EXPECT_EQ(file.metadata().at("format"), "steadyflux-prompt-embeds");
  EXPECT_EQ(folder.entries(), 1);
}

// A reader of version 1 would take them for embeddings of the prompt alone.
TEST(PromptEmbedsFile, OtherTextsForT5AndNegativePromptsMakeItVersion2) {
  const TempFolder folder;
  const auto path = folder / "e.safetensors";
  const auto version = [&] { return PromptEmbedsFile(path).metadata().at("version"); };
  std::vector<StoredEmbeds> embeds = {make_embeds("a red apple", 1), make_embeds("", 2)};
  write_prompt_embeds(path, embeds);
  EXPECT_EQ(version(), "1");
  embeds[0].prompt_2 = "a green\npear";
  write_prompt_embeds(path, embeds);
  EXPECT_EQ(version(), "2");
  embeds[1].negative = true;
  write_prompt_embeds(path, embeds);
  const auto read = read_prompt_embeds(path);
  ASSERT_EQ(read.size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) EXPECT_TRUE(same_embeds(read[i], embeds[i])) << i;
  embeds[0].prompt_2.clear();
  write_prompt_embeds(path, embeds);
  EXPECT_EQ(version(), "2");
}

TEST(PromptEmbedsFile, MoreThanTenPromptsKeepTheirOrder) {
  const TempFolder folder;
  std::vector<StoredEmbeds> embeds;
  for (int i = 0; i < 23; ++i) embeds.push_back(make_embeds(std::to_string(i), i));
  write_prompt_embeds(folder / "e.safetensors", embeds);
  const auto read = read_prompt_embeds(folder / "e.safetensors");
  ASSERT_EQ(read.size(), 23u);
  for (std::size_t i = 0; i < 23; ++i) EXPECT_TRUE(same_embeds(read[i], embeds[i])) << i;
}

TEST(PromptEmbedsFile, ReadsWhatPythonWrites) {
  const TempFolder folder;
  write_tensors(folder, {{"prompt_embeds", DType::kF32, {1, 4, 2}},
                         {"pooled_prompt_embeds", DType::kF32, {1, 3}}});
  const auto one = read_prompt_embeds(folder / "e.safetensors");
  ASSERT_EQ(one.size(), 1u);
  EXPECT_EQ(one[0].prompt, "");
  EXPECT_EQ(one[0].encoder, "");
  EXPECT_EQ(one[0].dtype, "fp32");
  EXPECT_EQ(one[0].max_sequence_length, 4);
  EXPECT_EQ(one[0].prompt_embeds.size(), 32u);
  EXPECT_EQ(one[0].pooled.size(), 12u);

  // A batch, and with metadata.
  write_tensors(
      folder,
      {{"prompt_embeds", DType::kF16, {3, 4, 2}}, {"pooled_prompt_embeds", DType::kF16, {3, 5}}},
      {{"format", "pt"}, {"prompt.2", "the third"}});
  const auto three = read_prompt_embeds(folder / "e.safetensors");
  ASSERT_EQ(three.size(), 3u);
  EXPECT_EQ(three[1].dtype, "fp16");
  EXPECT_EQ(three[1].prompt_embeds_shape, (std::vector<std::int64_t>{1, 4, 2}));
  EXPECT_EQ(three[1].prompt_embeds.front(), std::byte{16});  // 4 * 2 * 2 bytes in
  EXPECT_EQ(three[2].prompt_embeds.front(), std::byte{32});
  EXPECT_EQ(three[2].pooled.front(), std::byte{20});
  EXPECT_EQ(three[2].prompt, "the third");
}

TEST(PromptEmbedsFile, SaysWhatIsWrong) {
  const TempFolder folder;
  const auto expect_bad = [&](const std::string& part, const std::vector<Tensor>& tensors,
                              const std::map<std::string, std::string>& metadata = {}) {
    write_tensors(folder, tensors, metadata);
    expect_error(ErrorKind::kBadInput, part, [&] { PromptEmbedsFile(folder / "e.safetensors"); });
  };
  const Tensor embeds = {"prompt_embeds.0", DType::kBF16, {1, 4, 2}};
  const Tensor pooled = {"pooled_prompt_embeds.0", DType::kBF16, {1, 3}};
  expect_bad("holds no prompt embeddings", {});
  expect_bad("holds no prompt embeddings", {{"proj_out.weight", DType::kBF16, {4, 4}}});
  expect_bad("holds no prompt embeddings", {{"prompt_embeds.1", DType::kBF16, {1, 4, 2}}});
  expect_bad("'pooled_prompt_embeds.0' is missing", {embeds});
  expect_bad("'pooled_prompt_embeds' is missing", {{"prompt_embeds", DType::kF32, {1, 4, 2}}});
  expect_bad("unexpected tensor 'prompt_embeds.2'",
             {embeds, pooled, {"prompt_embeds.2", DType::kBF16, {1, 4, 2}}});
  expect_bad("unexpected tensor 'negative_prompt_embeds'",
             {embeds, pooled, {"negative_prompt_embeds", DType::kBF16, {1, 4, 2}}});
  expect_bad("has the shape [4, 2], expected [1,",
             {{"prompt_embeds.0", DType::kBF16, {4, 2}}, pooled});
  expect_bad("has the shape [1, 0, 2]", {{"prompt_embeds.0", DType::kBF16, {1, 0, 2}}, pooled});
  expect_bad("has the shape [1, 3, 1]",
             {embeds, {"pooled_prompt_embeds.0", DType::kBF16, {1, 3, 1}}});
  expect_bad("more than one prompt", {{"prompt_embeds.0", DType::kBF16, {2, 4, 2}}, pooled});
  expect_bad("is I64, expected BF16, F16 or F32",
             {{"prompt_embeds.0", DType::kI64, {1, 4, 2}}, pooled});
  expect_bad("expected one dtype", {{"prompt_embeds.0", DType::kF32, {1, 4, 2}}, pooled});
  expect_bad(
      "prompt_embeds has 2 prompts, pooled_prompt_embeds 1",
      {{"prompt_embeds", DType::kF32, {2, 4, 2}}, {"pooled_prompt_embeds", DType::kF32, {1, 2}}});
  expect_bad("at most 100000", {{"prompt_embeds", DType::kF16, {100'001, 1, 1}},
                                {"pooled_prompt_embeds", DType::kF16, {100'001, 1}}});
  expect_bad("the metadata say max_sequence_length 512, the tensors have 4", {embeds, pooled},
             {{"max_sequence_length.0", "512"}});
  expect_bad("the metadata say dtype fp32, the tensors have bf16", {embeds, pooled},
             {{"dtype.0", "fp32"}});
  expect_bad("format version '3', this program reads versions 1 and 2", {embeds, pooled},
             {{"format", "steadyflux-prompt-embeds"}, {"version", "3"}});
  expect_error(ErrorKind::kBadInput, "file not found",
               [&] { PromptEmbedsFile(folder / "none.safetensors"); });
}

TEST(PromptEmbedsFile, EveryTruncationAndEveryChangedValueIsNoticed) {
  const TempFolder folder;
  write_prompt_embeds(folder / "good", {make_embeds("a", 1), make_embeds("b", 2)});
  const std::string good = folder.read("good");
  const auto is_bad = [&](const std::string& bytes) {
    fs::remove(folder / "e");
    folder.write("e", bytes);
    try {
      read_prompt_embeds(folder / "e");
      return false;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBadInput) << error.what();
      return true;
    }
  };
  ASSERT_FALSE(is_bad(good));
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_TRUE(is_bad(good.substr(0, size))) << size;
  }
  const std::size_t values = 2 * (4 * 6 * 2 + 6);
  for (std::size_t i = good.size() - values; i < good.size(); ++i) {
    std::string bytes = good;
    bytes[i] = static_cast<char>(bytes[i] ^ 1);
    EXPECT_TRUE(is_bad(bytes)) << i;
  }
  // Changes of the header may leave a sound file (another prompt); none does worse than an Error.
  std::mt19937 random(1);
  int bad = 0;
  for (int i = 0; i < 1000; ++i) {
    std::string bytes = good;
    bytes[random() % (good.size() - values)] = static_cast<char>(random() & 0xFF);
    bad += is_bad(bytes) ? 1 : 0;
  }
  EXPECT_GT(bad, 500);
}

TEST(PromptEmbedsFile, WithoutItsEndNoFileAppears) {
  const TempFolder folder;
  folder.write("e.safetensors", "as it was");
  {
    PromptEmbedsWriter writer(folder / "e.safetensors", {make_embeds("a", 1), make_embeds("b", 2)});
    const StoredEmbeds first = make_embeds("a", 1);
    writer.add(first.prompt_embeds, first.pooled);
    EXPECT_EQ(folder.entries(), 2);
    EXPECT_THROW(writer.finish(), Error);
  }
  EXPECT_EQ(folder.entries(), 1);
  EXPECT_EQ(folder.read("e.safetensors"), "as it was");
}

TEST(PromptEmbedsFile, WriterRefusesWhatDoesNotFitItsContents) {
  const TempFolder folder;
  StoredEmbeds other = make_embeds("b", 2);
  other.dtype = "fp16";
  expect_error(ErrorKind::kInternal, "several dtypes", [&] {
    write_prompt_embeds(folder / "e", {make_embeds("a", 1), other});
  });
  other = make_embeds("b", 2);
  other.prompt_embeds.pop_back();
  expect_error(ErrorKind::kInternal, "not as long as",
               [&] { write_prompt_embeds(folder / "e", {other}); });
  expect_error(ErrorKind::kBadInput, "not UTF-8",
               [&] { write_prompt_embeds(folder / "e", {make_embeds("\xFF", 1)}); });
  expect_error(ErrorKind::kIo, "no regular file",
               [&] { write_prompt_embeds("/dev/null", {make_embeds("a", 1)}); });
  expect_error(ErrorKind::kIo, "cannot make a file in its folder: No such file",
               [&] { write_prompt_embeds(folder / "none" / "e", {make_embeds("a", 1)}); });
  EXPECT_EQ(folder.entries(), 0);
}

TEST(PromptEmbedsFile, AFileThatIsReplacedKeepsItsModeAndItsLink) {
  const TempFolder folder;
  folder.write("real", "old");
  fs::permissions(folder / "real", fs::perms(0640));
  fs::create_symlink("real", folder / "link");
  write_prompt_embeds(folder / "link", {make_embeds("a", 1)});
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_EQ(fs::status(folder / "real").permissions(), fs::perms(0640));
  EXPECT_EQ(read_prompt_embeds(folder / "real").size(), 1u);
}

TEST(PromptEmbedsFile, TheNextWriterRemovesWhatAKilledOneLeft) {
  const TempFolder folder;
  const pid_t child = fork();
  if (child == 0) {
    PromptEmbedsWriter writer(folder / "killed", {make_embeds("a", 1)});
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  ASSERT_EQ(folder.entries(), 1);
  // One that lives is left alone.
  PromptEmbedsWriter living(folder / "living", {make_embeds("a", 1)});
  EXPECT_EQ(folder.entries(), 1);
  write_prompt_embeds(folder / "next", {make_embeds("b", 2)});
  const StoredEmbeds embeds = make_embeds("a", 1);
  living.add(embeds.prompt_embeds, embeds.pooled);
  living.finish();
  EXPECT_TRUE(same_embeds(read_prompt_embeds(folder / "living").at(0), embeds));
  EXPECT_EQ(folder.entries(), 2);
}

TEST(PromptEmbedsFile, AWriteThatFailsInTheMidstLeavesNothing) {
  // A limit on the size of files stops a writer in its midst, as a full disk does.
  const TempFolder folder;
  const pid_t child = fork();
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{8192, 8192};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    try {
      write_prompt_embeds(folder / "e", {make_embeds("a", 1, 512, 64)});
      ::_exit(1);
    } catch (const Error& error) {
      ::_exit(error.kind() == ErrorKind::kIo ? 0 : 2);
    }
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(folder.entries(), 0);
}

}  // namespace
}  // namespace steadyflux
