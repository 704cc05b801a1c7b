// Encoders of one name give the same embeddings: every change of them, and no other, changes it.
#include "embeddings/kept_identity.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/file_identity.h"
#include "checkpoints/open_model.h"
#include "expect_error.h"
#include "temp_folder.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

std::vector<NamedFile> files_of(const fs::path& root) {
  FluxModel model;
  model.paths = {.text_encoder = root / "text_encoder",
                 .text_encoder_2 = root / "text_encoder_2",
                 .transformer = root / "transformer",
                 .vae = root / "vae",
                 .tokenizer = root / "tokenizer",
                 .tokenizer_2 = root / "tokenizer_2"};
  return encoder_files(model);
}

std::string encoder_identity(const fs::path& root, const fs::path& cache = {}) {
  return kept_identity(files_of(root), cache);
}

void write_model(const TempFolder& folder) {
  for (const char* part : {"text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "vae"}) {
    folder.write(fs::path(part) / "config.json", "{}");
  }
  folder.write("text_encoder_2/model.safetensors", std::string(3 << 20, 'w'));
}

TEST(EncoderIdentity, ChangesWithTheEncodersOnly) {
  const TempFolder folder;
  const TempFolder copy;
  write_model(folder);
  write_model(copy);
  const std::string identity = encoder_identity(folder.path());
  EXPECT_EQ(identity.size(), 16u);
  EXPECT_EQ(encoder_identity(copy.path()), identity);
  copy.write("vae/config.json", "{ }");
  copy.write("transformer/config.json", "{}");
  copy.write("text_encoder/notes.md", "x");
  EXPECT_EQ(encoder_identity(copy.path()), identity);
  for (const char* file : {"text_encoder/config.json", "text_encoder_2/config.json",
                           "tokenizer/config.json", "tokenizer_2/config.json"}) {
    copy.write(file, "{ }");
    EXPECT_NE(encoder_identity(copy.path()), identity) << file;
    copy.write(file, "{}");
  }
  copy.write("text_encoder_2/model.safetensors", std::string(3 << 20, 'v'));
  EXPECT_NE(encoder_identity(copy.path()), identity);
  fs::remove_all(copy / "tokenizer_2");
  expect_error(ErrorKind::kBadInput, "tokenizer_2: no such model folder",
               [&] { encoder_identity(copy.path()); });
}

TEST(EncoderIdentity, AFileMovedToTheOtherEncoderIsAChange) {
  const TempFolder a;
  const TempFolder b;
  write_model(a);
  write_model(b);
  a.write("text_encoder/x.json", "1");
  b.write("text_encoder_2/x.json", "1");
  EXPECT_NE(encoder_identity(a.path()), encoder_identity(b.path()));
}

// The bundled model has not been touched for seconds, as files of a test's own would have.
TEST(EncoderIdentity, IsKeptWhileNoFileChanges) {
  const fs::path model = fs::path(STEADYFLUX_SOURCE_DIR) / "models" / "emoji";
  const TempFolder cache;
  const std::string identity = encoder_identity(model);
  EXPECT_EQ(encoder_identity(model, cache / "c"), identity);
  ASSERT_FALSE(fs::is_empty(cache / "c" / "encoders"));
  const fs::path kept = fs::directory_iterator(cache / "c" / "encoders")->path();
  const std::string text = cache.read(kept);
  EXPECT_EQ(text.substr(0, 16), identity);

  // That the kept one is what is taken shows when it is another.
  cache.write(kept, "0123456789abcdef" + text.substr(16));
  EXPECT_EQ(encoder_identity(model, cache / "c"), "0123456789abcdef");
  EXPECT_EQ(encoder_identity(model), identity);
  // Not if anything about the files is different, or the kept one is damaged.
  for (const std::string& damaged :
       {"0123456789abcdef" + text.substr(16, text.size() - 17), std::string("0123456789abcdef"),
        std::string(), "x123456789abcdef" + text.substr(16)}) {
    cache.write(kept, damaged);
    EXPECT_EQ(encoder_identity(model, cache / "c"), identity) << damaged;
    EXPECT_EQ(cache.read(kept), text);
  }
  forget_identities(cache / "c");
  EXPECT_TRUE(fs::is_empty(cache / "c" / "encoders"));
}

TEST(EncoderIdentity, OtherFilesOfTheSameModelAreKeptBesideThem) {
  const fs::path model = fs::path(STEADYFLUX_SOURCE_DIR) / "models" / "emoji";
  const TempFolder cache;
  const auto all = model_files(FluxModel::open(model));
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(encoder_identity(model, cache.path()), encoder_identity(model));
    EXPECT_EQ(kept_identity(all, cache.path()), files_identity(all));
  }
  EXPECT_NE(encoder_identity(model), files_identity(all));
  EXPECT_EQ(std::distance(fs::directory_iterator(cache / "encoders"), {}), 2);
}

TEST(EncoderIdentity, FilesThatHaveJustChangedAreLookedAtAgain) {
  const TempFolder folder;
  const TempFolder cache;
  write_model(folder);
  const std::string identity = encoder_identity(folder.path(), cache.path());
  folder.write("tokenizer/config.json", "[]");  // of the same length, within the same tick or not
  EXPECT_NE(encoder_identity(folder.path(), cache.path()), identity);
  EXPECT_EQ(cache.entries(), 0);
}

TEST(EncoderIdentity, ACacheThatCannotBeWrittenToDoesNotMatter) {
  const fs::path model = fs::path(STEADYFLUX_SOURCE_DIR) / "models" / "emoji";
  EXPECT_EQ(encoder_identity(model, "/proc/steadyflux"), encoder_identity(model));
}

}  // namespace
}  // namespace steadyflux
