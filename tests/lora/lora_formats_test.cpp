// The same change of the same layers, spelled in every way people spell it.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "expect_error.h"
#include "lora/lora_file.h"
#include "lora/lora_keys.h"
#include "lora_files.h"

namespace steadyflux {
namespace {

using Names = std::vector<std::string>;

class LoraFormatsTest : public testing::Test {
 protected:
  LoraFile read(const LoraMaker& maker, const std::string& name = "x") const {
    return read_lora(maker.write(folder_, name));
  }
  TempFolder folder_;
};

struct Spelling {
  const char* stem;
  const char* down;
  const char* up;
  const char* format;
};

TEST_F(LoraFormatsTest, OneLayerHasManyNames) {
  const Spelling spellings[] = {
      {"transformer.transformer_blocks.3.ff.net.2", ".lora_A.weight", ".lora_B.weight",
       "diffusers"},
      {"transformer.transformer_blocks.3.ff.net.2", ".lora_A.default.weight",
       ".lora_B.default.weight", "diffusers"},
      {"base_model.model.transformer_blocks.3.ff.net.2", ".lora_A.weight", ".lora_B.weight",
       "diffusers"},
      {"base_model.model.transformer.transformer_blocks.3.ff.net.2", ".lora_A.weight",
       ".lora_B.weight", "diffusers"},
      {"transformer.base_model.model.transformer_blocks.3.ff.net.2", ".lora_A.weight",
       ".lora_B.weight", "diffusers"},
      {"transformer_blocks.3.ff.net.2", ".lora.down.weight", ".lora.up.weight", "diffusers"},
      {"transformer.transformer_blocks.3.ff.net.2", ".lora_down.weight", ".lora_up.weight",
       "diffusers"},
      {"lora_unet_double_blocks_3_img_mlp_2", ".lora_down.weight", ".lora_up.weight", "kohya"},
      {"lora_unet_transformer_blocks_3_ff_net_2", ".lora_down.weight", ".lora_up.weight", "kohya"},
      {"lora_transformer_transformer_blocks_3_ff_net_2", ".lora_down.weight", ".lora_up.weight",
       "OneTrainer"},
      {"lycoris_transformer_blocks_3_ff_net_2", ".lora_down.weight", ".lora_up.weight", "LyCORIS"},
      {"diffusion_model.double_blocks.3.img_mlp.2", ".lora_A.weight", ".lora_B.weight", "BFL"},
      {"model.diffusion_model.double_blocks.3.img_mlp.2", ".lora_A.weight", ".lora_B.weight",
       "BFL"},
      {"base_model.model.double_blocks.3.img_mlp.2", ".lora_A.weight", ".lora_B.weight", "BFL"},
      {"double_blocks.3.img_mlp.2", ".lora_A.weight", ".lora_B.weight", "BFL"},
  };
  Matrix expected;
  for (const Spelling& spelling : spellings) {
    SCOPED_TRACE(spelling.stem);
    const LoraFile lora =
        read(LoraMaker().pair(spelling.stem, 6, 8, 2, spelling.down, spelling.up));
    ASSERT_EQ(names_of(lora), Names{"transformer.transformer_blocks.3.ff.net.2"});
    EXPECT_EQ(lora.format, spelling.format);
    EXPECT_TRUE(lora.unmatched.empty());
    EXPECT_EQ(lora.targets[0].terms[0].rank, 2);
    const Matrix delta = delta_of(lora.targets[0].terms[0]);
    if (expected.values.empty()) expected = delta;
    EXPECT_EQ(delta, expected);
  }
}

TEST_F(LoraFormatsTest, TextEncodersHaveManyNamesToo) {
  for (const char* stem :
       {"lora_te1_text_model_encoder_layers_7_self_attn_out_proj",
        "lora_te_text_model_encoder_layers_7_self_attn_out_proj",
        "text_encoder.text_model.encoder.layers.7.self_attn.out_proj",
        "text_encoder.encoder.layers.7.self_attn.out_proj",
        "text_encoders.clip_l.transformer.text_model.encoder.layers.7.self_attn.out_proj"}) {
    EXPECT_EQ(names_of(read(LoraMaker().pair(stem, 4, 4, 1))),
              Names{"text_encoder.encoder.layers.7.self_attn.out_proj"})
        << stem;
  }
  EXPECT_EQ(
      names_of(read(LoraMaker().pair("text_encoder.text_model.encoder.layers.7.self_attn.to_out", 4,
                                     4, 1, "_lora.down.weight", "_lora.up.weight"))),
      Names{"text_encoder.encoder.layers.7.self_attn.out_proj"});
  for (const char* stem : {"lora_te2_encoder_block_23_layer_1_DenseReluDense_wi_0",
                           "lora_te3_encoder_block_23_layer_1_DenseReluDense_wi_0",
                           "text_encoder_2.encoder.block.23.layer.1.DenseReluDense.wi_0",
                           "text_encoders.t5xxl.transformer.encoder.block.23.layer.1."
                           "DenseReluDense.wi_0"}) {
    EXPECT_EQ(names_of(read(LoraMaker().pair(stem, 4, 4, 1))),
              Names{"text_encoder_2.encoder.block.23.layer.1.DenseReluDense.wi_0"})
        << stem;
  }
}

// Layer by layer, from the smallest dim that lets linear1's parts differ from each other.
TEST_F(LoraFormatsTest, FusedLayersComeApart) {
  const LoraFile lora = read(LoraMaker()
                                 .pair("double_blocks.0.img_attn.qkv", 6, 3, 2)
                                 .pair("double_blocks.0.txt_attn.qkv", 6, 3, 2)
                                 .pair("single_blocks.0.linear1", 14, 3, 2)
                                 .pair("final_layer.adaLN_modulation.1", 4, 3, 2));
  const auto rows = [&](const char* name) { return only_term(lora, name).rows; };
  using Rows = std::vector<RowRange>;
  EXPECT_EQ(rows("transformer.transformer_blocks.0.attn.to_q"), (Rows{{0, 2}}));
  EXPECT_EQ(rows("transformer.transformer_blocks.0.attn.to_k"), (Rows{{2, 4}}));
  EXPECT_EQ(rows("transformer.transformer_blocks.0.attn.to_v"), (Rows{{4, 6}}));
  EXPECT_EQ(rows("transformer.transformer_blocks.0.attn.add_q_proj"), (Rows{{0, 2}}));
  EXPECT_EQ(rows("transformer.transformer_blocks.0.attn.add_k_proj"), (Rows{{2, 4}}));
  EXPECT_EQ(rows("transformer.transformer_blocks.0.attn.add_v_proj"), (Rows{{4, 6}}));
  EXPECT_EQ(rows("transformer.single_transformer_blocks.0.attn.to_q"), (Rows{{0, 2}}));
  EXPECT_EQ(rows("transformer.single_transformer_blocks.0.attn.to_k"), (Rows{{2, 4}}));
  EXPECT_EQ(rows("transformer.single_transformer_blocks.0.attn.to_v"), (Rows{{4, 6}}));
  EXPECT_EQ(rows("transformer.single_transformer_blocks.0.proj_mlp"), (Rows{{6, 14}}));
  EXPECT_EQ(rows("transformer.norm_out.linear"), (Rows{{2, 4}, {0, 2}}));
  EXPECT_EQ(lora.targets.size(), 11U);
  EXPECT_EQ(only_term(lora, "transformer.single_transformer_blocks.0.proj_mlp").selected_rows(), 8);
}

TEST_F(LoraFormatsTest, XlabsNamesTheStreams) {
  const LoraFile lora = read(
      LoraMaker()
          .pair("double_blocks.1.processor.proj_lora1", 4, 4, 1, ".down.weight", ".up.weight")
          .pair("double_blocks.1.processor.proj_lora2", 4, 4, 1, ".down.weight", ".up.weight")
          .pair("single_blocks.1.processor.qkv", 6, 4, 1, "_lora.down.weight", "_lora.up.weight"));
  EXPECT_EQ(names_of(lora), (Names{"transformer.single_transformer_blocks.1.attn.to_k",
                                   "transformer.single_transformer_blocks.1.attn.to_q",
                                   "transformer.single_transformer_blocks.1.attn.to_v",
                                   "transformer.transformer_blocks.1.attn.to_add_out",
                                   "transformer.transformer_blocks.1.attn.to_out.0"}));
  EXPECT_EQ(lora.format, "XLabs");
}

TEST_F(LoraFormatsTest, AlphaIsDividedByTheRank) {
  const auto scale = [&](const LoraMaker& maker) { return read(maker).targets[0].terms[0].scale; };
  EXPECT_EQ(scale(LoraMaker().pair("proj_out", 4, 4, 2)), 1.0);
  EXPECT_EQ(scale(LoraMaker().pair("proj_out", 4, 4, 2).alpha("proj_out", 3)), 1.5);
  EXPECT_EQ(scale(LoraMaker().pair("proj_out", 4, 4, 2).alpha("proj_out.lora_A.weight", 3)), 1.5);
  const auto with = [&](DType dtype, std::vector<std::uint8_t> bytes) {
    std::vector<std::byte> raw(bytes.size());
    std::memcpy(raw.data(), bytes.data(), bytes.size());
    return scale(LoraMaker().pair("proj_out", 4, 4, 2).raw("proj_out.alpha", dtype, {1}, raw));
  };
  EXPECT_EQ(with(DType::kF16, {0x00, 0x41}), 1.25);                  // 2.5
  EXPECT_EQ(with(DType::kF16, {0x01, 0x00}), std::ldexp(1.0, -25));  // the smallest subnormal
  EXPECT_EQ(with(DType::kBF16, {0x20, 0x40}), 1.25);
  EXPECT_EQ(with(DType::kI64, {16, 0, 0, 0, 0, 0, 0, 0}), 8.0);
  EXPECT_EQ(with(DType::kF64, {0, 0, 0, 0, 0, 0, 0x04, 0x40}), 1.25);
}

TEST_F(LoraFormatsTest, PeftsConfigurationCounts) {
  const LoraMaker maker = LoraMaker()
                              .pair("transformer.transformer_blocks.1.attn.to_q", 4, 4, 4)
                              .pair("transformer.transformer_blocks.11.attn.to_q", 4, 4, 4)
                              .pair("text_encoder.text_model.encoder.layers.0.mlp.fc1", 4, 4, 4);
  const LoraFile lora = read(LoraMaker(maker).metadata(
      "lora_adapter_metadata",
      R"({"transformer.lora_alpha": 8, "transformer.r": 4, "transformer.use_rslora": true,
          "transformer.alpha_pattern": {"transformer_blocks.1.attn.to_q": 2},
          "text_encoder.lora_alpha": 1,
          "text_encoder.alpha_pattern": {"^text_model.encoder.layers.0.mlp.fc1": 12}})"));
  EXPECT_EQ(only_term(lora, "transformer.transformer_blocks.1.attn.to_q").scale, 1.0);
  EXPECT_EQ(only_term(lora, "transformer.transformer_blocks.11.attn.to_q").scale, 4.0);
  EXPECT_EQ(only_term(lora, "text_encoder.encoder.layers.0.mlp.fc1").scale, 3.0);

  folder_.write("adapter_config.json", R"({"peft_type": "LORA", "lora_alpha": 2})");
  EXPECT_EQ(read(maker, "adapter_model").targets[0].terms[0].scale, 0.5);
  EXPECT_EQ(read(maker, "other").targets[0].terms[0].scale, 1.0);
}

TEST_F(LoraFormatsTest, LohaAndLokrAreProducts) {
  const LoraFile loha = read(LoraMaker()
                                 .floats("lycoris_proj_out.hada_w1_a", {2, 1}, {1, 2})
                                 .floats("lycoris_proj_out.hada_w1_b", {1, 2}, {3, 4})
                                 .floats("lycoris_proj_out.hada_w2_a", {2, 1}, {5, 6})
                                 .floats("lycoris_proj_out.hada_w2_b", {1, 2}, {7, 8})
                                 .alpha("lycoris_proj_out", 0.5));
  EXPECT_EQ(loha.targets[0].terms[0].kind, LoraKind::kLoha);
  EXPECT_EQ(delta_of(loha.targets[0].terms[0]).values,
            (std::vector<double>{52.5, 80, 126, 192}));  // 0.5 * 3 * 35, 0.5 * 4 * 40, ...

  const LoraFile lokr =
      read(LoraMaker()
               .floats("lora_unet_double_blocks_0_img_attn_qkv.lokr_w1", {3, 1}, {1, 2, 3})
               .floats("lora_unet_double_blocks_0_img_attn_qkv.lokr_w2_a", {1, 2}, {1, 10})
               .floats("lora_unet_double_blocks_0_img_attn_qkv.lokr_w2_b", {2, 2}, {1, 2, 3, 4})
               .alpha("lora_unet_double_blocks_0_img_attn_qkv", 4));
  const LoraTerm& to_v = only_term(lokr, "transformer.transformer_blocks.0.attn.to_v");
  EXPECT_EQ(to_v.kind, LoraKind::kLokr);
  EXPECT_EQ(to_v.rank, 2);
  EXPECT_EQ(delta_of(to_v).values, (std::vector<double>{2 * 3 * 31, 2 * 3 * 42}));

  // Two whole matrices have no rank, and their alpha means nothing (LyCORIS writes some 1e10).
  const LoraFile whole = read(LoraMaker()
                                  .floats("lycoris_proj_out.lokr_w1", {1, 1}, {2})
                                  .floats("lycoris_proj_out.lokr_w2", {1, 2}, {3, 4})
                                  .alpha("lycoris_proj_out", 1e10F));
  EXPECT_EQ(delta_of(whole.targets[0].terms[0]).values, (std::vector<double>{6, 8}));
}

TEST_F(LoraFormatsTest, DifferencesAndBiases) {
  const LoraFile lora =
      read(LoraMaker()
               .floats("diffusion_model.img_in.diff", {2, 2}, {1, 2, 3, 4})
               .floats("diffusion_model.img_in.diff_b", {2}, {5, 6})
               .alpha("diffusion_model.img_in", 7)
               .floats("diffusion_model.double_blocks.0.img_attn.norm.key_norm.diff", {3})
               .pair("diffusion_model.txt_in", 2, 2, 1)
               .alpha("diffusion_model.txt_in", 7)
               .floats("diffusion_model.txt_in.diff_b", {2})
               .pair("diffusion_model.final_layer.linear", 2, 2, 1)
               .alpha("diffusion_model.final_layer.linear", 7)
               .floats("diffusion_model.final_layer.linear.lora_B.bias", {2})
               .floats("diffusion_model.final_layer.adaLN_modulation.1.diff_b", {4}));
  const LoraTerm& full = only_term(lora, "transformer.x_embedder");
  EXPECT_EQ(full.kind, LoraKind::kFull);
  EXPECT_EQ(delta_of(full).values, (std::vector<double>{1, 2, 3, 4}));
  EXPECT_EQ(to_matrix(full.bias.value()).values, (std::vector<double>{5, 6}));
  EXPECT_EQ(only_term(lora, "transformer.transformer_blocks.0.attn.norm_k").delta_columns(), 0);
  // A trained bias is as strong as its matrix, a difference is not.
  EXPECT_EQ(only_term(lora, "transformer.proj_out").scale, 7.0);
  EXPECT_TRUE(only_term(lora, "transformer.proj_out").bias.has_value());
  const LoraTerm& swapped = only_term(lora, "transformer.norm_out.linear");
  EXPECT_FALSE(swapped.first.has_value());
  EXPECT_EQ(swapped.selected_rows(), 4);
  EXPECT_EQ(swapped.rows, (std::vector<RowRange>{{2, 4}, {0, 2}}));
  for (const LoraTarget& target : lora.targets) {
    if (target.layer != "context_embedder") continue;
    ASSERT_EQ(target.terms.size(), 2U);
    EXPECT_EQ(target.terms[0].scale, 7.0);
    EXPECT_FALSE(target.terms[0].bias.has_value());
    EXPECT_EQ(target.terms[1].scale, 1.0);
    EXPECT_TRUE(target.terms[1].bias.has_value());
  }
}

TEST_F(LoraFormatsTest, DoraKnowsItsAxis) {
  const auto term = [&](const std::string& key, std::vector<std::int64_t> shape) {
    return read(LoraMaker().pair("proj_out", 4, 6, 2).floats("proj_out" + key, std::move(shape)))
        .targets[0]
        .terms[0];
  };
  for (const auto& [key, shape] : std::vector<std::pair<std::string, std::vector<std::int64_t>>>{
           {".dora_scale", {4, 1}},
           {".dora_scale", {4}},
           {".lora_magnitude_vector", {4}},
           {".lora_magnitude_vector.weight", {4}},
           {".lora_magnitude_vector.default", {4}},
           {".lora_magnitude_vector.default.weight", {4}}}) {
    const LoraTerm rows = term(key, shape);
    ASSERT_TRUE(rows.dora_scale.has_value()) << key;
    EXPECT_TRUE(rows.dora_on_output) << key;
    EXPECT_EQ(rows.dora_scale->shape, std::vector<std::int64_t>{4}) << key;
  }
  EXPECT_FALSE(term(".dora_scale", {1, 6}).dora_on_output);
  EXPECT_THROW(term(".dora_scale", {6, 1}), Error);
  // Of fused layers only magnitudes by row can be taken apart.
  const auto fused = [&](std::vector<std::int64_t> shape) {
    return read(LoraMaker()
                    .pair("single_blocks.0.linear1", 14, 3, 2)
                    .floats("single_blocks.0.linear1.dora_scale", std::move(shape)));
  };
  EXPECT_EQ(fused({14, 1}).targets.size(), 4U);
  expect_error(ErrorKind::kBadInput, "only magnitudes per row", [&] { fused({1, 3}); });
}

TEST_F(LoraFormatsTest, CopiesForOtherProgramsAreLeftOut) {
  const LoraFile lora = read(LoraMaker()
                                 .pair("transformer.transformer_blocks.0.attn.to_q", 2, 2, 1)
                                 .pair("lora_unet_double_blocks_0_img_attn_qkv", 6, 2, 1,
                                       ".lora_down.weight", ".lora_up.weight")
                                 .pair("lora_te1_text_model_encoder_layers_0_mlp_fc1", 2, 2, 1,
                                       ".lora_down.weight", ".lora_up.weight"));
  EXPECT_EQ(names_of(lora), (Names{"transformer.transformer_blocks.0.attn.to_q",
                                   "text_encoder.encoder.layers.0.mlp.fc1"}));
  EXPECT_EQ(lora.unmatched, (Names{"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight",
                                   "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight"}));
  EXPECT_EQ(lora.format, "diffusers + kohya");
}

TEST_F(LoraFormatsTest, WhatIsUnknownIsListed) {
  const LoraFile lora = read(LoraMaker()
                                 .pair("transformer.proj_out", 2, 2, 1)
                                 .pair("transformer.some_new_layer", 2, 2, 1)
                                 .alpha("transformer.x_embedder", 1)
                                 .floats("bundle_emb.token", {1}));
  EXPECT_EQ(lora.unmatched,
            (Names{"bundle_emb.token", "transformer.some_new_layer.lora_A.weight",
                   "transformer.some_new_layer.lora_B.weight", "transformer.x_embedder.alpha"}));
}

TEST(LoraKeysTest, NumbersAreNumbers) {
  EXPECT_TRUE(place_lora_stem("double_blocks.0.img_attn.proj").has_value());
  EXPECT_EQ(place_lora_stem("double_blocks.18.img_attn.proj")->places[0].layer,
            "transformer_blocks.18.attn.to_out.0");
  for (const char* stem :
       {"double_blocks.00.img_attn.proj", "double_blocks..img_attn.proj",
        "double_blocks.-1.img_attn.proj", "double_blocks.99999.img_attn.proj",
        "double_blocks.0.img_attn.proj.", "double_blocks.0.img_attn", "double_blocks.", "", "_",
        "transformer.", "transformer.transformer.proj_out", "lora_unet_", "text_model.proj_out"}) {
    EXPECT_FALSE(place_lora_stem(stem).has_value()) << stem;
  }
}

}  // namespace
}  // namespace steadyflux
