// Both tokenizers against the ids transformers gives, for 695 prompts (tests/tokenizer/goldens,
// made by scripts/goldens/tokenizer_goldens.py): the bundled model's from every form its files come
// in, and FLUX.1's own where a copy lies beside the checkout.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/json.h"
#include "temp_folder.h"
#include "tokenizer/clip_tokenizer.h"
#include "tokenizer/t5_tokenizer.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Ids = std::vector<std::int64_t>;

const fs::path kSource = STEADYFLUX_SOURCE_DIR;
const fs::path kGoldens = kSource / "tests/tokenizer/goldens";

struct Case {
  std::string name;
  std::string goldens;
  fs::path folder;
  std::vector<std::string> files;  // only these of the folder; all of them if empty
  bool clip;
  std::int64_t vocab_size;
};

std::vector<Case> cases() {
  const fs::path emoji = kSource / "models/emoji";
  const fs::path flux1 = kSource / "../shared/flux1/schnell";
  return {
      {"EmojiClip", "emoji_clip", emoji / "tokenizer", {}, true, 2048},
      {"EmojiClipVocabAndMerges",
       "emoji_clip",
       emoji / "tokenizer",
       {"vocab.json", "merges.txt"},
       true,
       2048},
      {"EmojiClipTokenizerJson", "emoji_clip", emoji / "tokenizer", {"tokenizer.json"}, true, 2048},
      {"EmojiT5", "emoji_t5", emoji / "tokenizer_2", {}, false, 2048},
      {"EmojiT5Spiece", "emoji_t5", emoji / "tokenizer_2", {"spiece.model"}, false, 2048},
      {"EmojiT5TokenizerJson", "emoji_t5", emoji / "tokenizer_2", {"tokenizer.json"}, false, 2048},
      {"Flux1Clip", "flux1_clip", flux1 / "tokenizer", {}, true, 49408},
      {"Flux1T5", "flux1_t5", flux1 / "tokenizer_2", {}, false, 32128},
      {"Flux1T5Spiece", "flux1_t5", flux1 / "tokenizer_2", {"spiece.model"}, false, 32128},
      {"Flux1T5TokenizerJson", "flux1_t5", flux1 / "tokenizer_2", {"tokenizer.json"}, false, 32128},
  };
}

class TokenizerGolden : public testing::TestWithParam<Case> {};

TEST_P(TokenizerGolden, EqualsTransformers) {
  const Case& param = GetParam();
  if (!fs::exists(param.folder)) {
    GTEST_SKIP() << "no FLUX.1 tokenizers beside the checkout (../shared/flux1)";
  }
  const TempFolder temporary;
  for (const std::string& file : param.files) {
    fs::copy_file(param.folder / file, temporary.path() / file);
  }
  const fs::path folder = param.files.empty() ? param.folder : temporary.path();
  const auto tokenizer = param.clip ? load_clip_tokenizer(folder, param.vocab_size)
                                    : load_t5_tokenizer(folder, param.vocab_size);
  const fs::path prompts_file = kGoldens / "prompts.json";
  const json prompts = parse_json(read_text_file(prompts_file), prompts_file);
  const json goldens = read_json_object(kGoldens / (param.goldens + ".json"));
  ASSERT_GE(prompts.size(), 500u);
  ASSERT_EQ(goldens["ids"].size(), prompts.size());
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const auto expected = goldens["ids"][i].get<Ids>();
    const auto length = static_cast<std::int64_t>(expected.size());
    const TokenizedPrompt result = tokenizer->tokenize(prompts[i].get<std::string>(), length);
    EXPECT_EQ(result.ids, expected) << i << ": " << prompts[i].dump(-1, ' ', true);
    EXPECT_EQ(result.num_tokens, length);
    EXPECT_EQ(result.lost_text, "") << i << ": " << prompts[i].dump(-1, ' ', true);
    // One place more is padding, so nothing was cut off to make it fit.
    const Ids longer = tokenizer->tokenize(prompts[i].get<std::string>(), length + 1).ids;
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), longer.begin())) << i;
  }
  for (const json& cut : goldens["cut"]) {
    const auto prompt = prompts[cut["prompt"].get<std::size_t>()].get<std::string>();
    const TokenizedPrompt result = tokenizer->tokenize(prompt, cut["length"].get<std::int64_t>());
    EXPECT_EQ(result.ids, cut["ids"].get<Ids>()) << cut["prompt"] << " cut to " << cut["length"];
  }
}

INSTANTIATE_TEST_SUITE_P(, TokenizerGolden, testing::ValuesIn(cases()),
                         [](const auto& parameter) { return parameter.param.name; });

}  // namespace
}  // namespace steadyflux
