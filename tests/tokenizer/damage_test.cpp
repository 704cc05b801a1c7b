// Files and prompts that are wrong: every one ends in an Error of the right kind whose one line
// names the file, and none in a crash. Long prompts stay fast, and what a cut lost is told.
#include <gtest/gtest.h>

#include <ctime>
#include <filesystem>
#include <random>

#include "base/file.h"
#include "expect_error.h"
#include "steadyflux/error.h"
#include "temp_folder.h"
#include "tokenizer/clip_tokenizer.h"
#include "tokenizer/t5_tokenizer.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

const fs::path kClip = fs::path(STEADYFLUX_SOURCE_DIR) / "models/emoji/tokenizer";
const fs::path kT5 = fs::path(STEADYFLUX_SOURCE_DIR) / "models/emoji/tokenizer_2";
constexpr std::int64_t kVocabSize = 2048;

void expect_bad_clip(const std::string& vocab, const std::string& merges, const std::string& part) {
  const TempFolder folder;
  folder.write("vocab.json", vocab);
  folder.write("merges.txt", merges);
  expect_error(ErrorKind::kBadInput, part,
               [&] { load_clip_tokenizer(folder.path(), kVocabSize)->tokenize("a", 77); });
}

void expect_bad_t5(const std::string& name, const std::string& content) {
  const TempFolder folder;
  folder.write(name, content);
  expect_error(ErrorKind::kBadInput, folder.path().string(),
               [&] { load_t5_tokenizer(folder.path(), kVocabSize); });
}

TEST(ClipTokenizer, RefusesDamagedFiles) {
  const TempFolder empty;
  expect_error(ErrorKind::kBadInput, "vocab.json",
               [&] { load_clip_tokenizer(empty.path(), kVocabSize); });
  expect_bad_clip("", "", "vocab.json");
  expect_bad_clip("[]", "", "vocab.json");
  expect_bad_clip(R"({"a": "b"})", "", "not an integer");
  expect_bad_clip(R"({"a": -1})", "", "out of range");
  expect_bad_clip(R"({"a": 99999999999})", "", "out of range");
  expect_bad_clip(R"({"a": 0})", "a\n", "merge 1");
  expect_bad_clip(R"({"a": 0})", "a b c\n", "merge 1");
  expect_bad_clip(R"({"a": 0})", "#version: 0.2\n\n", "merge 1");
  expect_bad_clip(R"({"a": 0})", "a b\n", "not in the vocabulary");
  expect_bad_clip(R"({"a": 0, "b": 1})", "a b\n", "not in the vocabulary");
  expect_bad_clip(R"({"b": 0})", "", "lacks the bos_token");
  expect_bad_clip(std::string(100000, '['), "", "vocab.json");
  expect_bad_clip("{\"a\":" + std::string(100000, '['), "", "vocab.json");
}

TEST(ClipTokenizer, RefusesDamagedTokenizerJson) {
  for (const char* text :
       {"{}", R"({"model": 1})", R"({"model": {"vocab": {}}})",
        R"({"model": {"vocab": [], "merges": []}})", R"({"model": {"vocab": {}, "merges": {}}})",
        R"({"model": {"vocab": {"a": 0}, "merges": [1]}})",
        R"({"model": {"vocab": {"a": 0}, "merges": [["a"]]}})",
        R"({"model": {"vocab": {"a": 0}, "merges": ["a"]}})",
        R"({"model": {"vocab": {"a": 0}, "merges": []}, "added_tokens": 3})",
        R"({"model": {"vocab": {"a": 0}, "merges": []}, "added_tokens": [{"content": 3}]})",
        R"({"model": {"vocab": {"a": 0}, "merges": []},
            "added_tokens": [{"content": "x", "lstrip": "yes"}]})"}) {
    const TempFolder folder;
    folder.write("tokenizer.json", text);
    SCOPED_TRACE(text);
    expect_error(ErrorKind::kBadInput, "tokenizer.json",
                 [&] { load_clip_tokenizer(folder.path(), kVocabSize); });
  }
}

// Looking for so many in every prompt, and for doubles among them, would take hours.
TEST(ClipTokenizer, RefusesTooManyAddedTokens) {
  const TempFolder folder;
  folder.write("vocab.json", R"({"a": 0})");
  folder.write("merges.txt", "");
  std::string added = "{\"t0\": 1";
  for (int i = 1; i < 20000; ++i) {
    added += ", \"t" + std::to_string(i) + "\": 1";
  }
  folder.write("added_tokens.json", added + "}");
  expect_error(ErrorKind::kBadInput, "more than 16384 added tokens",
               [&] { load_clip_tokenizer(folder.path(), kVocabSize); });
}

TEST(T5Tokenizer, RefusesDamagedFiles) {
  const TempFolder empty;
  expect_error(ErrorKind::kBadInput, "spiece.model",
               [&] { load_t5_tokenizer(empty.path(), kVocabSize); });
  expect_bad_t5("spiece.model", "");
  expect_bad_t5("spiece.model", "not a model");
  expect_bad_t5("spiece.model", std::string(1000, '\xff'));
  for (const char* text :
       {"{}", R"({"model": {"vocab": {}}})", R"({"model": {"vocab": [["a", 0]]}})",
        R"({"model": {"vocab": [["a", "b"]]}})", R"({"model": {"vocab": [["a"]]}})",
        R"({"model": {"vocab": [["a",0],["b",0],["c",0]]},
            "normalizer": {"type": "Precompiled", "precompiled_charsmap": "!!"}})",
        R"({"model": {"vocab": [["a",0],["b",0],["c",0]]},
            "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}})",
        R"({"model": {"vocab": [["a",0],["b",0],["c",0]]}, "normalizer": 3})"}) {
    SCOPED_TRACE(text);
    expect_bad_t5("tokenizer.json", text);
  }
  // A whole charsmap (4 bytes of trie), but one replacement is 301 times "x".
  std::string charsmap = "BAAAAAAAAAB4";
  for (int i = 0; i < 100; ++i) {
    charsmap += "eHh4";
  }
  expect_bad_t5("tokenizer.json", R"({"model": {"vocab": [["a",0],["b",0],["c",0]]},
      "normalizer": {"type": "Precompiled", "precompiled_charsmap": ")" +
                                      charsmap + "\"}}");
}

TEST(T5Tokenizer, SurvivesCutAndScrambledModels) {
  const std::string good = read_text_file(kT5 / "spiece.model");
  std::mt19937 random(1);
  int refused = 0;
  for (int i = 0; i < 60; ++i) {
    std::string bad = good;
    if (i % 2 == 0) {
      bad.resize(random() % good.size());
    } else {
      for (int k = 0; k < 50; ++k) {
        bad[random() % bad.size()] = static_cast<char>(random());
      }
    }
    const TempFolder folder;
    folder.write("spiece.model", bad);
    try {
      load_t5_tokenizer(folder.path(), kVocabSize)
          ->tokenize("a red \xef\xac\x81 Apple e\xcc\x81", 64);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBadInput) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, 20);  // a cut in the middle of a field, or a wrong wire type, is noticed
}

TEST(Tokenizers, RefuseIdsBeyondTheEncoder) {
  expect_error(ErrorKind::kBadInput, "token id 2047", [] { load_clip_tokenizer(kClip, 2047); });
  expect_error(ErrorKind::kBadInput, "token id 2047", [] { load_t5_tokenizer(kT5, 2047); });
}

TEST(Tokenizers, RefuseInvalidUtf8) {
  const auto clip = load_clip_tokenizer(kClip, kVocabSize);
  const auto t5 = load_t5_tokenizer(kT5, kVocabSize);
  for (const std::string& prompt :
       {std::string("a\xff"), std::string("\xc0\x80"), std::string("\xe2\x82"),
        std::string("\xed\xa0\x80"), std::string("\xf4\x90\x80\x80")}) {
    expect_error(ErrorKind::kUsage, "UTF-8", [&] { clip->tokenize(prompt, 77); });
    expect_error(ErrorKind::kUsage, "UTF-8", [&] { t5->tokenize(prompt, 64); });
  }
}

TEST(Tokenizers, TellWhatACutLost) {
  const auto clip = load_clip_tokenizer(kClip, kVocabSize);
  const auto t5 = load_t5_tokenizer(kT5, kVocabSize);
  EXPECT_EQ(clip->tokenize("a red Apple", 4).lost_text, "apple");
  EXPECT_EQ(clip->tokenize("a red apple", 5).lost_text, "");
  EXPECT_EQ(clip->tokenize("a red apple", 2).lost_text, "a red apple");
  EXPECT_EQ(t5->tokenize("a red apple", 3).lost_text, "apple");
  EXPECT_EQ(t5->tokenize("a red  apple", 4).lost_text, "");
  EXPECT_EQ(t5->tokenize("a </s> red  apple", 2).lost_text, "</s> red  apple");
  EXPECT_EQ(t5->tokenize("a red apple", 1).lost_text, "a red apple");
}

// 100 kB of anything takes milliseconds of the CPU, ten or twenty times that in a debug build with
// sanitizers; a quadratic step takes seconds, or minutes. ICU has one, its ordering of a run of
// marks: a second or two, on a busy machine more.
TEST(Tokenizers, LongPromptsAreFast) {
#ifdef NDEBUG
  constexpr double kMaxSeconds = 2;
#else
  constexpr double kMaxSeconds = 20;
#endif
  constexpr double kMaxSecondsOfMarks = 20;
  const std::string marks = "\xcc\x81\xcc\xa3";
  const auto clip = load_clip_tokenizer(kClip, kVocabSize);
  const auto t5 = load_t5_tokenizer(kT5, kVocabSize);
  for (const std::string& unit :
       {std::string("a"), std::string("a red apple "), std::string("<"), std::string("</s>"),
        std::string("\xf0\x9f\x8d\x8e"), std::string("e\xcc\x81"), marks,
        std::string("\xe2\x96\x81"), std::string(" "), std::string("!?")}) {
    std::string prompt;
    while (prompt.size() < 100000) {
      prompt += unit;
    }
    const std::clock_t start = std::clock();
    clip->tokenize(prompt, 77);
    t5->tokenize(prompt, 64);
    EXPECT_LT(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC,
              unit == marks ? kMaxSecondsOfMarks : kMaxSeconds)
        << unit;
  }
}

}  // namespace
}  // namespace steadyflux
