// "FILE:SCALE" as typed, and the numbers for `inspect`.
#include "lora/lora_spec.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "expect_error.h"
#include "lora/lora_summary.h"
#include "lora_files.h"

namespace steadyflux {
namespace {

TEST(LoraSpecTest, AScaleMayFollowTheFile) {
  const auto expect = [](const std::string& text, const std::string& path, double scale) {
    const LoraSpec spec = parse_lora_spec(text);
    EXPECT_EQ(spec.path, path) << text;
    EXPECT_EQ(spec.scale, scale) << text;
  };
  expect("style.safetensors", "style.safetensors", 1.0);
  expect("style.safetensors:0.8", "style.safetensors", 0.8);
  expect("style.safetensors:-1", "style.safetensors", -1.0);
  expect("style.safetensors:+.5e0", "style.safetensors", 0.5);
  expect("style.safetensors:0", "style.safetensors", 0.0);
  expect("a:b/style.safetensors", "a:b/style.safetensors", 1.0);
  expect("a:b/style.safetensors:2", "a:b/style.safetensors", 2.0);
  expect("a:3/style", "a:3/style", 1.0);
}

TEST(LoraSpecTest, AnExistingFileWins) {
  const TempFolder folder;
  folder.write("style:0.8", "");
  const std::string path = (folder / "style:0.8").string();
  EXPECT_EQ(parse_lora_spec(path).path, path);
  EXPECT_EQ(parse_lora_spec(path).scale, 1.0);
  EXPECT_EQ(parse_lora_spec(path + ":0.5").path, path);
}

TEST(LoraSpecTest, WhatIsNoScaleIsAnError) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "no file"},          {":0.5", "no file in front"},
      {"x:", "no number"},      {"x:fast", "no number"},
      {"x:nan", "no number"},   {"x:inf", "no number"},
      {"x:1e999", "too large"}, {"x: 1", "no number"},
      {"x:0x10", "no number"},  {"x:1.2.3", "no number"},
      {"x:0,8", "no number"},   {"x:0.8:", "no number"},
      {"x:+", "no number"},     {std::string("x\0y:1", 5), "zero byte"}};
  for (const auto& [text, part] : cases) {
    expect_error(ErrorKind::kUsage, part, [&, spec = text] { parse_lora_spec(spec); });
  }
}

TEST(LoraSummaryTest, CountsKindsRanksAndLayers) {
  const TempFolder folder;
  const LoraSummary summary = summarize(
      read_lora(LoraMaker()
                    .pair("lora_unet_double_blocks_0_img_attn_qkv", 6, 4, 2)
                    .pair("lora_unet_img_in", 4, 4, 3)
                    .floats("lora_unet_img_in.dora_scale", {4, 1})
                    .floats("lora_te1_text_model_encoder_layers_0_mlp_fc1.lokr_w1", {2, 2})
                    .floats("lora_te1_text_model_encoder_layers_0_mlp_fc1.lokr_w2", {2, 2})
                    .floats("lora_unet_unknown.alpha", {})
                    .write(folder)));
  EXPECT_EQ(summary.format, "kohya");
  EXPECT_EQ(summary.kinds, (std::vector<std::string>{"LoRA", "LoKr", "DoRA"}));
  EXPECT_EQ(summary.min_rank, 2);
  EXPECT_EQ(summary.max_rank, 3);
  EXPECT_EQ(summary.components,
            (std::map<std::string, std::size_t>{{"text_encoder", 1}, {"transformer", 4}}));
  EXPECT_EQ(summary.targets.front(), "transformer.transformer_blocks.0.attn.to_k");
  EXPECT_EQ(summary.targets.size(), 5U);
  EXPECT_EQ(summary.unmatched, std::vector<std::string>{"lora_unet_unknown.alpha"});
}

}  // namespace
}  // namespace steadyflux
