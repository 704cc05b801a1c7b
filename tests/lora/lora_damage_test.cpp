// LoRA files that are wrong: each gets an error that names the file and what is wrong with it.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "expect_error.h"
#include "lora/lora_file.h"
#include "lora_files.h"

namespace steadyflux {
namespace {

class LoraDamageTest : public testing::Test {
 protected:
  void expect_bad(const std::string& part, const LoraMaker& maker) const {
    const auto path = maker.write(folder_);
    expect_error(ErrorKind::kBadInput, part, [&] { read_lora(path); });
    expect_error(ErrorKind::kBadInput, path.string(), [&] { read_lora(path); });
  }
  TempFolder folder_;
};

TEST_F(LoraDamageTest, ShapesThatDoNotMultiply) {
  expect_bad("[4, 3] does not multiply with [2, 4] of 'proj_out.lora_A.weight'",
             LoraMaker()
                 .floats("proj_out.lora_A.weight", {2, 4})
                 .floats("proj_out.lora_B.weight", {4, 3}));
  expect_bad("it makes a [2, 3], but", LoraMaker()
                                           .floats("proj_out.hada_w1_a", {2, 1})
                                           .floats("proj_out.hada_w1_b", {1, 2})
                                           .floats("proj_out.hada_w2_a", {2, 1})
                                           .floats("proj_out.hada_w2_b", {1, 3}));
  expect_bad("changes 5 rows of a layer that consists of 3 equal parts",
             LoraMaker().pair("double_blocks.0.img_attn.qkv", 5, 4, 2));
  expect_bad("expected [4] like the rows",
             LoraMaker().pair("proj_out", 4, 4, 2).floats("proj_out.lora_B.bias", {3}));
}

TEST_F(LoraDamageTest, ShapesThatAreNoMatrices) {
  for (const std::vector<std::int64_t>& shape :
       {std::vector<std::int64_t>{}, {4}, {2, 4, 2}, {2, 4, 3, 3}, {0, 4}, {2, 0}}) {
    SCOPED_TRACE(shape_to_string(shape));
    expect_bad("proj_out.lora_A.weight", LoraMaker()
                                             .floats("proj_out.lora_A.weight", shape)
                                             .floats("proj_out.lora_B.weight", {4, 2}));
  }
  // 1x1 convolutions are matrices.
  const auto path = LoraMaker()
                        .floats("proj_out.lora_A.weight", {2, 4, 1, 1})
                        .floats("proj_out.lora_B.weight", {4, 2, 1, 1})
                        .write(folder_);
  EXPECT_EQ(read_lora(path).targets[0].terms[0].delta_columns(), 4);
}

TEST_F(LoraDamageTest, MissingPartners) {
  expect_bad("has no lora_up (lora_B)", LoraMaker().floats("proj_out.lora_A.weight", {2, 4}));
  expect_bad("has no lora_down (lora_A)", LoraMaker().floats("proj_out.lora_B.weight", {4, 2}));
  expect_bad("has no hada_w2_b", LoraMaker()
                                     .floats("proj_out.hada_w1_a", {2, 1})
                                     .floats("proj_out.hada_w1_b", {1, 2})
                                     .floats("proj_out.hada_w2_a", {2, 1}));
  expect_bad("has no lokr_w2 or lokr_w2_a", LoraMaker().floats("proj_out.lokr_w1", {2, 1}));
  expect_bad("has no lokr_w1 or lokr_w1_b",
             LoraMaker().floats("proj_out.lokr_w1_a", {2, 1}).floats("proj_out.lokr_w2", {2, 2}));
  expect_bad("expected one of the two", LoraMaker()
                                            .floats("proj_out.lokr_w1", {2, 1})
                                            .floats("proj_out.lokr_w1_a", {2, 1})
                                            .floats("proj_out.lokr_w2", {2, 2}));
  expect_bad("exactly one LoRA",
             LoraMaker().floats("proj_out.diff", {2, 2}).floats("proj_out.dora_scale", {2, 1}));
}

TEST_F(LoraDamageTest, Alphas) {
  const auto with = [](float alpha) {
    return LoraMaker().pair("proj_out", 4, 4, 2).alpha("proj_out", alpha);
  };
  expect_bad("alpha is nan", with(std::nanf("")));
  expect_bad("alpha is inf", with(std::numeric_limits<float>::infinity()));
  expect_bad("alpha is -1", with(-1));
  expect_bad("expected one number",
             LoraMaker().pair("proj_out", 4, 4, 2).floats("proj_out.alpha", {2}));
  expect_bad(
      "dtype U8",
      LoraMaker().pair("proj_out", 4, 4, 2).raw("proj_out.alpha", DType::kU8, {1}, {std::byte{1}}));
}

TEST_F(LoraDamageTest, Dtypes) {
  expect_bad("dtype F8_E4M3, expected F32, F16 or BF16",
             LoraMaker()
                 .pair("proj_out", 4, 4, 2)
                 .raw("proj_out.lora_A.weight", DType::kF8E4M3, {2, 4}, std::vector<std::byte>(8)));
}

TEST_F(LoraDamageTest, TuckerDecompositions) {
  expect_bad("Tucker",
             LoraMaker().pair("proj_out", 4, 4, 2).floats("proj_out.lora_mid.weight", {2, 2}));
  expect_bad("Tucker", LoraMaker().floats("proj_out.hada_t1", {2, 2, 1, 1}));
  expect_bad("Tucker", LoraMaker().floats("proj_out.lokr_t2", {2, 2, 1, 1}));
}

TEST_F(LoraDamageTest, OneLayerTwice) {
  expect_bad("both change transformer.proj_out",
             LoraMaker().pair("transformer.proj_out", 4, 4, 2).pair("proj_out", 4, 4, 2));
  expect_bad("both change transformer.transformer_blocks.0.attn.to_q",
             LoraMaker()
                 .pair("diffusion_model.double_blocks.0.img_attn.qkv", 6, 4, 2)
                 .pair("transformer.transformer_blocks.0.attn.to_q", 2, 4, 2));
  expect_bad("say the same thing twice",
             LoraMaker().pair("proj_out", 4, 4, 2).floats("proj_out.lora_A.second.weight", {2, 4}));
}

TEST_F(LoraDamageTest, Metadata) {
  const auto with = [](const std::string& metadata) {
    return LoraMaker()
        .pair("transformer.proj_out", 4, 4, 2)
        .metadata("lora_adapter_metadata", metadata);
  };
  expect_bad("not a valid JSON file", with("{"));
  expect_bad("expected an object", with("[]"));
  expect_bad("expected a number", with(R"({"transformer.lora_alpha": "8"})"));
  expect_bad("expected a number from 0 up", with(R"({"transformer.lora_alpha": -8})"));
  expect_bad("expected true or false",
             with(R"({"transformer.lora_alpha": 8, "transformer.use_rslora": 1})"));
  expect_bad("expected an object",
             with(R"({"transformer.lora_alpha": 8, "transformer.alpha_pattern": []})"));
  expect_bad("regular expression",
             with(R"({"transformer.lora_alpha": 8, "transformer.alpha_pattern": {".*": 1}})"));
}

TEST_F(LoraDamageTest, OtherFilesAreCalledWhatTheySeemToBe) {
  expect_bad("an empty file", LoraMaker());
  expect_bad("no LoRA at all but weights of a model (1 tensors, the first is 'decoder.conv_in.",
             LoraMaker().floats("decoder.conv_in.weight", {2, 2}));
  const auto kohya = [](const std::string& stem) {
    return LoraMaker().pair(stem, 4, 4, 2, ".lora_down.weight", ".lora_up.weight");
  };
  expect_bad("a LoRA for Stable Diffusion 1, 2 or XL",
             kohya("lora_unet_down_blocks_0_attentions_0_proj_in"));
  expect_bad("a LoRA for SDXL", kohya("lora_te2_text_model_encoder_layers_0_mlp_fc1"));
  expect_bad("a LoRA for Wan", kohya("lora_unet_blocks_0_cross_attn_k"));
  expect_bad("a LoRA for FLUX.2", kohya("double_stream_modulation_img.lin"));
  expect_bad("a LoRA for another model", kohya("unknown"));
  expect_bad("an adapter of a kind other than LoRA",
             LoraMaker().floats("lora_unet_double_blocks_0_img_attn_qkv.oft_blocks", {2, 2, 2}));
  folder_.write("text.safetensors", "not a safetensors file");
  expect_error(ErrorKind::kBadInput, "text.safetensors",
               [&] { read_lora(folder_ / "text.safetensors"); });
  expect_error(ErrorKind::kBadInput, "none.safetensors",
               [&] { read_lora(folder_ / "none.safetensors"); });
}

TEST_F(LoraDamageTest, TerminalsAreSafe) {
  expect_bad("\\x1B[31m", LoraMaker().floats("\x1b[31m.weight", {2, 2}));
}

class CheckTargetsTest : public LoraDamageTest {
 protected:
  static std::optional<LoraLayerShape> find(LoraComponent component, const std::string& layer) {
    if (component != LoraComponent::kTransformer) return std::nullopt;
    if (layer == "proj_out") return LoraLayerShape{4, 6};
    if (layer == "x_embedder") return LoraLayerShape{6, 4};
    if (layer == "transformer_blocks.0.attn.to_q") return LoraLayerShape{2, 4};
    if (layer == "transformer_blocks.0.attn.norm_q") return LoraLayerShape{3, 0};
    return std::nullopt;
  }
  LoraFile checked(const LoraMaker& maker) const {
    LoraFile lora = read_lora(maker.write(folder_));
    check_targets(lora, find);
    return lora;
  }
  void expect_unfit(const std::string& part, const LoraMaker& maker) const {
    expect_error(ErrorKind::kBadInput, part, [&] { checked(maker); });
  }
};

TEST_F(CheckTargetsTest, UnknownLayersBecomeUnmatched) {
  const LoraFile lora = checked(LoraMaker()
                                    .pair("proj_out", 4, 6, 2)
                                    .pair("double_blocks.0.img_attn.qkv", 6, 4, 2)
                                    .floats("double_blocks.0.img_attn.norm.query_norm.diff", {3})
                                    .pair("txt_in", 4, 4, 1));
  EXPECT_EQ(names_of(lora),
            (std::vector<std::string>{"transformer.proj_out",
                                      "transformer.transformer_blocks.0.attn.norm_q",
                                      "transformer.transformer_blocks.0.attn.to_q"}));
  EXPECT_EQ(lora.unmatched, (std::vector<std::string>{"double_blocks.0.img_attn.qkv", "txt_in"}));
  expect_unfit("none of the layers", LoraMaker().pair("txt_in", 4, 4, 1));
}

TEST_F(CheckTargetsTest, ShapesMustFit) {
  expect_unfit("changes a [4, 5], but transformer.proj_out is [4, 6]",
               LoraMaker().pair("proj_out", 4, 5, 2));
  expect_unfit("changes a [3, 6]", LoraMaker().pair("proj_out", 3, 6, 2));
  expect_unfit("changes a [4, 0]", LoraMaker().floats("proj_out.diff", {4}));
  expect_unfit("changes a [3, 1]",
               LoraMaker().floats("transformer_blocks.0.attn.norm_q.diff", {3, 1}));
  expect_unfit("changes 5 biases", LoraMaker().floats("proj_out.diff_b", {5}));
  expect_unfit("changes a [6, 8]", LoraMaker().pair("img_in", 6, 8, 2));
  expect_unfit("changes a [6, 3]", LoraMaker().pair("img_in", 6, 3, 2));
  // Rows and columns of a Kronecker product.
  EXPECT_EQ(
      checked(LoraMaker().floats("proj_out.lokr_w1", {2, 3}).floats("proj_out.lokr_w2", {2, 2}))
          .targets.size(),
      1U);
  expect_unfit("changes a [4, 4]",
               LoraMaker().floats("proj_out.lokr_w1", {2, 2}).floats("proj_out.lokr_w2", {2, 2}));
}

}  // namespace
}  // namespace steadyflux
