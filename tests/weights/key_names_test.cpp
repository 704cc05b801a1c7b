// The rules for names against goldens that the libraries themselves made: every tensor of FLUX.1 is
// built from exactly the rows that diffusers' converter takes, and no name is left over.
#include "weights/key_names.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "checkpoints/flux1_names.h"

namespace steadyflux {
namespace {

using testing::flux1_names;
using testing::NamedTensors;
using testing::Share;
using testing::stored_shapes_of;

using Shares = std::map<std::string, std::vector<Share>>;

Shares expected_shares(const NamedTensors& tensors) {
  Shares shares;
  for (const auto& [name, tensor] : tensors) shares[name] = tensor.shares;
  return shares;
}

// What the placements of all stored names build, share by share.
Shares built_shares(const NamedTensors& tensors, Component component, int up_blocks = 4) {
  std::map<std::string, std::map<int, std::vector<Share>>> stretches;
  for (const auto& [stored, shape] : stored_shapes_of(tensors)) {
    const auto parts = placements(component, stored, up_blocks);
    EXPECT_FALSE(parts.empty()) << stored;
    int row = 0;
    for (const auto& part : parts) {
      EXPECT_EQ(part.begin, row) << stored << ": rows left out or out of order";
      row = part.end;
      auto& shares = stretches[part.name][part.position];
      EXPECT_TRUE(shares.empty()) << part.name << " has two tensors for stretch " << part.position;
      for (int i = part.begin; i < part.end; ++i) shares.push_back({stored, i, part.of});
      EXPECT_LT(part.position, part.stretches);
    }
    if (!parts.empty()) {
      EXPECT_EQ(row, parts.back().of) << stored << ": rows left out";
    }
  }
  Shares result;
  for (const auto& [name, by_position] : stretches) {
    for (const auto& [position, shares] : by_position) {
      result[name].insert(result[name].end(), shares.begin(), shares.end());
    }
  }
  return result;
}

void expect_themselves(const NamedTensors& tensors, Component component) {
  for (const auto& [name, tensor] : tensors) {
    EXPECT_EQ(placements(component, name, 4), std::vector<RowPlacement>{{.name = name}}) << name;
    EXPECT_EQ(naming_of(component, name), Naming::kDiffusers) << name;
  }
}

TEST(KeyNames, BflTransformerIsDiffusersTransformer) {
  const auto tensors = flux1_names("transformer");
  EXPECT_EQ(tensors.size(), 1160u);
  EXPECT_EQ(built_shares(tensors, Component::kTransformer), expected_shares(tensors));
  expect_themselves(tensors, Component::kTransformer);
}

TEST(KeyNames, WhatAWriterTakesIsWhatAReaderPlaces) {
  const auto tensors = flux1_names("transformer");
  for (const auto& [name, tensor] : tensors) {
    EXPECT_EQ(transformer_bfl_name(name), tensor.shares.front().stored);
    EXPECT_TRUE(transformer_sources(name).empty()) << name;
    EXPECT_EQ(transformer_bfl_name(tensor.shares.front().stored), "");
    EXPECT_EQ(naming_of(Component::kTransformer, tensor.shares.front().stored), Naming::kBfl);
  }
  using Sources = std::vector<RowSource>;
  EXPECT_EQ(transformer_sources("single_blocks.7.linear1.bias"),
            (Sources{{"single_transformer_blocks.7.attn.to_q.bias"},
                     {"single_transformer_blocks.7.attn.to_k.bias"},
                     {"single_transformer_blocks.7.attn.to_v.bias"},
                     {"single_transformer_blocks.7.proj_mlp.bias"}}));
  EXPECT_EQ(transformer_sources("double_blocks.18.txt_attn.qkv.weight"),
            (Sources{{"transformer_blocks.18.attn.add_q_proj.weight"},
                     {"transformer_blocks.18.attn.add_k_proj.weight"},
                     {"transformer_blocks.18.attn.add_v_proj.weight"}}));
  // BFL has shift before scale.
  EXPECT_EQ(transformer_sources("final_layer.adaLN_modulation.1.weight"),
            (Sources{{"norm_out.linear.weight", 1, 2, 2}, {"norm_out.linear.weight", 0, 1, 2}}));
}

TEST(KeyNames, NormsOfBflMayBeCalledWeight) {
  for (const char* leaf : {"scale", "weight"}) {
    EXPECT_EQ(
        transformer_placements(std::string("single_blocks.2.norm.key_norm.") + leaf),
        std::vector<RowPlacement>{{.name = "single_transformer_blocks.2.attn.norm_k.weight"}});
  }
}

TEST(KeyNames, T5InLlamaCppNames) {
  const auto tensors = flux1_names("text_encoder_2");
  EXPECT_EQ(tensors.size(), 219u);
  EXPECT_EQ(built_shares(tensors, Component::kTextEncoder2), expected_shares(tensors));
  expect_themselves(tensors, Component::kTextEncoder2);
  EXPECT_EQ(text_encoder_2_placements("encoder.embed_tokens.weight"),
            std::vector<RowPlacement>{{.name = "shared.weight"}});
  EXPECT_EQ(naming_of(Component::kTextEncoder2, "enc.blk.3.attn_q.weight"), Naming::kLlamaCpp);
}

TEST(KeyNames, ClipWithAndWithoutTextModel) {
  const auto tensors = flux1_names("text_encoder");
  EXPECT_EQ(tensors.size(), 196u);
  EXPECT_EQ(built_shares(tensors, Component::kTextEncoder), expected_shares(tensors));
  expect_themselves(tensors, Component::kTextEncoder);
}

TEST(KeyNames, SiglipWithAndWithoutVisionModel) {
  for (const char* name :
       {"embeddings.patch_embedding.bias", "embeddings.position_embedding.weight",
        "post_layernorm.weight", "encoder.layers.26.mlp.fc2.weight"}) {
    for (const std::string front : {"", "vision_model."}) {
      const auto places = image_encoder_placements(front + name);
      ASSERT_EQ(places.size(), 1U) << front + name;
      EXPECT_EQ(places.front(), RowPlacement{name});
      EXPECT_FALSE(is_ignored(Component::kImageEncoder, front + name));
    }
  }
  for (const char* name : {"vision_model.head.probe", "text_model.encoder.layers.0.mlp.fc1.weight",
                           "logit_scale", "vision_model.embeddings.position_ids"}) {
    EXPECT_TRUE(is_ignored(Component::kImageEncoder, name)) << name;
  }
  EXPECT_EQ(image_embedder_placements("redux_up.bias").size(), 1U);
  EXPECT_TRUE(image_embedder_placements("redux_up.weight.x").empty());
}

TEST(KeyNames, BflVaeIsDiffusersVae) {
  const auto tensors = flux1_names("vae");
  EXPECT_EQ(tensors.size(), 244u);
  EXPECT_EQ(built_shares(tensors, Component::kVae), expected_shares(tensors));
  expect_themselves(tensors, Component::kVae);
  int up_blocks = 0;
  for (const auto& [stored, shape] : stored_shapes_of(tensors)) {
    up_blocks = std::max(up_blocks, least_up_blocks(stored));
  }
  EXPECT_EQ(up_blocks, 4);
}

TEST(KeyNames, UpBlocksOfTheVaeCountFromTheOtherEnd) {
  const auto name = [](const char* stored, int up_blocks) {
    const auto parts = vae_placements(stored, up_blocks);
    return parts.empty() ? "" : parts.front().name;
  };
  EXPECT_EQ(name("decoder.up.0.block.1.conv1.weight", 2),
            "decoder.up_blocks.1.resnets.1.conv1.weight");
  EXPECT_EQ(name("decoder.up.1.upsample.conv.bias", 2),
            "decoder.up_blocks.0.upsamplers.0.conv.bias");
  EXPECT_EQ(name("decoder.up.2.block.1.conv1.weight", 2), "");
  EXPECT_EQ(name("encoder.down.2.block.1.conv1.weight", 2),
            "encoder.down_blocks.2.resnets.1.conv1.weight");
  EXPECT_EQ(name("decoder.mid_block.attentions.0.proj_attn.bias", 4),
            "decoder.mid_block.attentions.0.to_out.0.bias");
}

TEST(KeyNames, OtherNamesArePlacedNowhere) {
  for (const char* name : {"",
                           "weight",
                           "img_in",
                           "img_in.weight.absmax",
                           "double_blocks.",
                           "double_blocks.0",
                           "double_blocks.x.img_attn.qkv.weight",
                           "double_blocks.01.img_attn.qkv.weight",
                           "double_blocks.-1.img_attn.qkv.weight",
                           "double_blocks.99999.img_attn.qkv.weight",
                           "double_blocks.0.img_attn.qkv",
                           "double_blocks.0.img_attn.qkv.scale",
                           "double_blocks.0.img_attn.qkv.weight.x",
                           "double_blocks.0..weight",
                           "double_blocks.0.img_attn.norm.key_norm.bias",
                           "single_blocks.0.img_mod.lin.weight",
                           "transformer_blocks.0.attn.norm_q.bias",
                           "transformer_blocks.0.proj_mlp.weight",
                           "single_transformer_blocks.0.attn.add_q_proj.weight",
                           "model.diffusion_model.img_in.weight",
                           "double_blocks.0.img_mlp.gate_proj.weight",
                           "time_in.in_layer.scale",
                           "norm_out.weight"}) {
    EXPECT_TRUE(transformer_placements(name).empty()) << name;
  }
  for (const char* name :
       {"enc.blk.0.attn_q.bias", "enc.blk.0.attn_q", "enc.blk.attn_q.weight",
        "dec.blk.0.attn_q.weight", "encoder.block.0.layer.1.DenseReluDense.wi.weight",
        "encoder.block.0.attn_q.weight", "decoder.block.0.layer.0.SelfAttention.q.weight",
        "lm_head.weight"}) {
    EXPECT_TRUE(text_encoder_2_placements(name).empty()) << name;
  }
  for (const char* name :
       {"text_model.embeddings.position_ids", "embeddings.token_embedding.bias",
        "text_model.text_model.final_layer_norm.bias", "encoder.layers.0.mlp.fc3.weight",
        "vision_model.encoder.layers.0.mlp.fc1.weight", "text_projection.weight"}) {
    EXPECT_TRUE(text_encoder_placements(name).empty()) << name;
  }
  for (const char* name :
       {"encoder.up.0.block.0.conv1.weight", "decoder.down.0.block.0.conv1.weight",
        "decoder.up.4.block.0.conv1.weight", "decoder.up.0.downsample.conv.weight",
        "decoder.mid.block_3.conv1.weight", "decoder.mid.block_1.conv3.weight",
        "encoder.down_blocks.0.upsamplers.0.conv.weight",
        "decoder.mid_block.upsamplers.0.conv.weight", "decoder.up_blocks.0.resnets.0.conv1.scale",
        "loss.logvar", "bn.running_mean"}) {
    EXPECT_TRUE(vae_placements(name, 4).empty()) << name;
  }
}

TEST(KeyNames, WhatLoadingPassesOver) {
  EXPECT_TRUE(is_ignored(Component::kTextEncoder, "text_model.embeddings.position_ids"));
  EXPECT_TRUE(is_ignored(Component::kTextEncoder, "logit_scale"));
  EXPECT_TRUE(is_ignored(Component::kTextEncoder, "text_projection.weight"));
  EXPECT_TRUE(is_ignored(Component::kTextEncoder, "vision_model.post_layernorm.bias"));
  EXPECT_FALSE(is_ignored(Component::kTextEncoder, "text_model.final_layer_norm.bias"));
  EXPECT_TRUE(is_ignored(Component::kTextEncoder2, "decoder.block.0.layer.0.layer_norm.weight"));
  EXPECT_FALSE(is_ignored(Component::kTextEncoder2, "shared.weight"));
  EXPECT_FALSE(is_ignored(Component::kVae, "decoder.conv_in.weight"));
  EXPECT_FALSE(is_ignored(Component::kTransformer, "img_in.weight"));
}

TEST(KeyNames, Prefixes) {
  EXPECT_EQ(strip_prefix("vae.decoder.conv_in.bias", "vae."), "decoder.conv_in.bias");
  EXPECT_EQ(strip_prefix("a", ""), "a");
  EXPECT_EQ(strip_prefix("vae", "vae."), std::nullopt);
  for (const auto component : {Component::kTransformer, Component::kTextEncoder,
                               Component::kTextEncoder2, Component::kVae}) {
    const auto prefixes = known_prefixes(component);
    EXPECT_EQ(prefixes.back(), "");
    for (std::size_t i = 1; i < prefixes.size(); ++i) {
      EXPECT_LE(prefixes[i].size(), prefixes[i - 1].size()) << prefixes[i];
    }
  }
}

TEST(KeyNames, CompanionsOfQuantisedWeights) {
  const std::string module = "model.diffusion_model.double_blocks.0.img_attn.qkv";
  for (const char* suffix : {"scale_weight", "scale_input", "weight_scale", "weight_scale_2",
                             "input_scale", "comfy_quant", "SCB", "weight_format"}) {
    EXPECT_EQ(split_companion(module + "." + suffix), (SplitName{module + ".weight", suffix}));
  }
  for (const char* suffix : {"absmax", "quant_map", "nested_absmax", "nested_quant_map",
                             "quant_state.bitsandbytes__nf4", "quant_state.bitsandbytes__fp4"}) {
    EXPECT_EQ(split_companion(module + ".weight." + suffix),
              (SplitName{module + ".weight", suffix}));
  }
  for (const char* plain : {".weight", ".bias", ".norm.key_norm.scale", ".weight.other", ""}) {
    EXPECT_EQ(split_companion(module + plain), (SplitName{module + plain, ""}));
  }
  EXPECT_EQ(split_companion("scaled_fp8"), (SplitName{"", "scaled_fp8"}));
  EXPECT_EQ(split_companion("model.diffusion_model.scaled_fp8"), (SplitName{"", "scaled_fp8"}));
  EXPECT_EQ(split_companion("SCB"), (SplitName{"SCB", ""}));
  EXPECT_EQ(split_companion(".SCB"), (SplitName{".SCB", ""}));
}

// The goldens against the published lists of names. Needs the folder ../shared/flux1 beside the
// checkout.
class RealNames : public ::testing::TestWithParam<const char*> {};

std::set<std::string> index_names(const std::filesystem::path& file) {
  std::ifstream stream(file);
  std::set<std::string> names;
  const auto index = nlohmann::json::parse(stream);
  for (const auto& item : index.at("weight_map").items()) names.insert(item.key());
  return names;
}

TEST_P(RealNames, AreThoseOfTheGoldens) {
  const auto folder =
      std::filesystem::path(STEADYFLUX_SOURCE_DIR).parent_path() / "shared" / "flux1" / GetParam();
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no " << folder;
  const bool guidance = std::string(GetParam()) == "dev";
  std::set<std::string> transformer, text_encoder_2;
  for (const auto& [name, tensor] : flux1_names("transformer")) {
    if (guidance || name.find("guidance") == std::string::npos) transformer.insert(name);
  }
  for (const auto& [name, tensor] : flux1_names("text_encoder_2")) text_encoder_2.insert(name);
  EXPECT_EQ(transformer,
            index_names(folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json"));
  EXPECT_EQ(text_encoder_2,
            index_names(folder / "text_encoder_2" / "model.safetensors.index.json"));
}

INSTANTIATE_TEST_SUITE_P(Flux1, RealNames, ::testing::Values("schnell", "dev"));

}  // namespace
}  // namespace steadyflux
