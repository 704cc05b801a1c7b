// Configurations from tensors alone: FLUX.1's from its real names and shapes, in every naming, and
// what is said where they do not make one.
#include "checkpoints/infer_config.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "checkpoints/flux1_names.h"
#include "expect_error.h"

namespace steadyflux {
namespace {

using testing::flux1_names;
using testing::shapes_of;

void expect_bad(const std::string& part, const std::function<void()>& action) {
  expect_error(ErrorKind::kBadInput, part, action);
  expect_error(ErrorKind::kBadInput, "file.x: ", action);
}

// Equal to the configs that were published with FLUX.1, which are our structs' defaults except for
// the guidance; and to the published files where ../shared/flux1 is there.
TEST(InferConfig, Flux1) {
  auto shapes = shapes_of(flux1_names("transformer"));
  const auto dev = infer_flux_transformer_config(shapes, "file.x");
  const FluxTransformerConfig published;
  EXPECT_EQ(dev.in_channels, published.in_channels);
  EXPECT_EQ(dev.out_channels, published.out_channels);
  EXPECT_EQ(dev.num_layers, published.num_layers);
  EXPECT_EQ(dev.num_single_layers, published.num_single_layers);
  EXPECT_EQ(dev.attention_head_dim, published.attention_head_dim);
  EXPECT_EQ(dev.num_attention_heads, published.num_attention_heads);
  EXPECT_EQ(dev.joint_attention_dim, published.joint_attention_dim);
  EXPECT_EQ(dev.pooled_projection_dim, published.pooled_projection_dim);
  EXPECT_EQ(dev.axes_dims_rope, published.axes_dims_rope);
  EXPECT_EQ(dev.patch_size, published.patch_size);
  EXPECT_TRUE(dev.guidance_embeds);
  std::erase_if(
      shapes, [](const auto& shape) { return shape.first.find("guidance") != std::string::npos; });
  EXPECT_FALSE(infer_flux_transformer_config(shapes, "file.x").guidance_embeds);
}

void expect_equal(const T5Config& found, const T5Config& expected) {
  EXPECT_EQ(found.vocab_size, expected.vocab_size);
  EXPECT_EQ(found.d_model, expected.d_model);
  EXPECT_EQ(found.d_kv, expected.d_kv);
  EXPECT_EQ(found.d_ff, expected.d_ff);
  EXPECT_EQ(found.num_layers, expected.num_layers);
  EXPECT_EQ(found.num_heads, expected.num_heads);
  EXPECT_EQ(found.relative_attention_num_buckets, expected.relative_attention_num_buckets);
  EXPECT_EQ(found.relative_attention_max_distance, expected.relative_attention_max_distance);
  EXPECT_EQ(found.layer_norm_epsilon, expected.layer_norm_epsilon);
  EXPECT_EQ(found.dense_act_fn, expected.dense_act_fn);
}

void expect_equal(const ClipTextConfig& found, const ClipTextConfig& expected) {
  EXPECT_EQ(found.vocab_size, expected.vocab_size);
  EXPECT_EQ(found.hidden_size, expected.hidden_size);
  EXPECT_EQ(found.intermediate_size, expected.intermediate_size);
  EXPECT_EQ(found.num_hidden_layers, expected.num_hidden_layers);
  EXPECT_EQ(found.num_attention_heads, expected.num_attention_heads);
  EXPECT_EQ(found.max_position_embeddings, expected.max_position_embeddings);
  EXPECT_EQ(found.eos_token_id, expected.eos_token_id);
  EXPECT_EQ(found.layer_norm_eps, expected.layer_norm_eps);
  EXPECT_EQ(found.hidden_act, expected.hidden_act);
}

void expect_equal(const AutoencoderKlConfig& found, const AutoencoderKlConfig& expected) {
  EXPECT_EQ(found.in_channels, expected.in_channels);
  EXPECT_EQ(found.out_channels, expected.out_channels);
  EXPECT_EQ(found.latent_channels, expected.latent_channels);
  EXPECT_EQ(found.block_out_channels, expected.block_out_channels);
  EXPECT_EQ(found.layers_per_block, expected.layers_per_block);
  EXPECT_EQ(found.norm_num_groups, expected.norm_num_groups);
  EXPECT_EQ(found.scaling_factor, expected.scaling_factor);
  EXPECT_EQ(found.shift_factor, expected.shift_factor);
  EXPECT_EQ(found.use_quant_conv, expected.use_quant_conv);
  EXPECT_EQ(found.use_post_quant_conv, expected.use_post_quant_conv);
  EXPECT_EQ(found.mid_block_add_attention, expected.mid_block_add_attention);
}

void expect_equal(const FlowMatchEulerConfig& found, const FlowMatchEulerConfig& expected) {
  EXPECT_EQ(found.num_train_timesteps, expected.num_train_timesteps);
  EXPECT_EQ(found.shift, expected.shift);
  EXPECT_EQ(found.use_dynamic_shifting, expected.use_dynamic_shifting);
  EXPECT_EQ(found.base_shift, expected.base_shift);
  EXPECT_EQ(found.max_shift, expected.max_shift);
  EXPECT_EQ(found.base_image_seq_len, expected.base_image_seq_len);
  EXPECT_EQ(found.max_image_seq_len, expected.max_image_seq_len);
  EXPECT_EQ(found.shift_terminal, expected.shift_terminal);
  EXPECT_EQ(found.time_shift_type, expected.time_shift_type);
}

T5Config t5() { return infer_t5_config(shapes_of(flux1_names("text_encoder_2")), "file.x"); }
ClipTextConfig clip() {
  return infer_clip_text_config(shapes_of(flux1_names("text_encoder")), "file.x");
}
AutoencoderKlConfig vae() {
  return infer_autoencoder_kl_config(shapes_of(flux1_names("vae")), "file.x");
}

TEST(InferConfig, TextEncodersAndVae) {
  expect_equal(t5(), T5Config());
  expect_equal(clip(), ClipTextConfig());
  expect_equal(vae(), AutoencoderKlConfig());
}

class PublishedConfigs : public ::testing::TestWithParam<const char*> {};

TEST_P(PublishedConfigs, AreTheInferredOnes) {
  const auto folder =
      std::filesystem::path(STEADYFLUX_SOURCE_DIR).parent_path() / "shared" / "flux1" / GetParam();
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no " << folder;
  expect_equal(t5(), read_t5_config(folder / "text_encoder_2" / "config.json"));
  expect_equal(clip(), read_clip_text_config(folder / "text_encoder" / "config.json"));
  expect_equal(vae(), read_autoencoder_kl_config(folder / "vae" / "config.json"));
  const auto transformer = read_flux_transformer_config(folder / "transformer" / "config.json");
  expect_equal(infer_flow_match_euler_config(transformer),
               read_flow_match_euler_config(folder / "scheduler" / "scheduler_config.json"));
}

INSTANTIATE_TEST_SUITE_P(Flux1, PublishedConfigs, ::testing::Values("schnell", "dev"));

TensorShapes siglip_shapes(std::int64_t layers, std::int64_t width, std::int64_t patches) {
  TensorShapes shapes = {{"embeddings.patch_embedding.weight", {width, 3, 14, 14}},
                         {"embeddings.position_embedding.weight", {patches, width}}};
  for (std::int64_t i = 0; i < layers; ++i) {
    const auto layer = "encoder.layers." + std::to_string(i) + ".";
    shapes[layer + "self_attn.q_proj.weight"] = {width, width};
    shapes[layer + "mlp.fc1.weight"] = {4304, width};
  }
  return shapes;
}

TEST(InferConfig, Redux) {
  const auto so400m = infer_siglip_vision_config(siglip_shapes(27, 1152, 729), "file.x");
  const SiglipVisionConfig published;
  EXPECT_EQ(so400m.hidden_size, published.hidden_size);
  EXPECT_EQ(so400m.intermediate_size, published.intermediate_size);
  EXPECT_EQ(so400m.num_hidden_layers, published.num_hidden_layers);
  EXPECT_EQ(so400m.num_attention_heads, published.num_attention_heads);
  EXPECT_EQ(so400m.image_size, published.image_size);
  EXPECT_EQ(so400m.patch_size, published.patch_size);
  const auto other = infer_siglip_vision_config(siglip_shapes(2, 768, 256), "file.x");
  EXPECT_EQ(other.num_attention_heads, 12);
  EXPECT_EQ(other.image_size, 16 * 14);
  expect_bad("a square of patches",
             [] { infer_siglip_vision_config(siglip_shapes(2, 768, 250), "file.x"); });
  expect_bad("no multiple",
             [] { infer_siglip_vision_config(siglip_shapes(2, 700, 256), "file.x"); });
  expect_bad("mlp.fc1.weight is missing",
             [] { infer_siglip_vision_config(siglip_shapes(0, 768, 256), "file.x"); });

  const TensorShapes shapes = {{"redux_up.weight", {12288, 1152}},
                               {"redux_down.weight", {4096, 12288}}};
  const auto redux = infer_redux_image_encoder_config(shapes, "file.x");
  EXPECT_EQ(redux.redux_dim, ReduxImageEncoderConfig{}.redux_dim);
  EXPECT_EQ(redux.txt_in_features, ReduxImageEncoderConfig{}.txt_in_features);
  expect_bad("redux_up.weight is missing", [] { infer_redux_image_encoder_config({}, "file.x"); });
}

TEST(InferConfig, BlocksMustFollowEachOther) {
  const auto all = shapes_of(flux1_names("transformer"));
  const auto without = [&](const std::string& part) {
    auto shapes = all;
    std::erase_if(shapes, [&](const auto& shape) { return shape.first.starts_with(part); });
    return shapes;
  };
  expect_bad("tensor transformer_blocks.7.norm1.linear.weight is missing",
             [&] { infer_flux_transformer_config(without("transformer_blocks.7."), "file.x"); });
  expect_bad("tensor single_transformer_blocks.0.norm.linear.weight is missing", [&] {
    infer_flux_transformer_config(without("single_transformer_blocks.0."), "file.x");
  });
  // Those at the end are not missed: nothing says how many there were.
  EXPECT_EQ(infer_flux_transformer_config(without("transformer_blocks.18."), "file.x").num_layers,
            18);
  const auto no_double = infer_flux_transformer_config(without("transformer_blocks."), "file.x");
  EXPECT_EQ(no_double.num_layers, 0);
  EXPECT_EQ(no_double.attention_head_dim, 128);
  expect_bad("transformer_blocks.0.norm1.linear.weight is missing",
             [] { infer_flux_transformer_config({}, "file.x"); });
}

TEST(InferConfig, EveryTensorThatIsNeededIsNamed) {
  const auto all = shapes_of(flux1_names("transformer"));
  for (const char* name : {"x_embedder.weight", "proj_out.weight", "context_embedder.weight",
                           "time_text_embed.text_embedder.linear_1.weight",
                           "transformer_blocks.0.attn.norm_q.weight"}) {
    auto shapes = all;
    shapes.erase(name);
    expect_bad(std::string("tensor ") + name + " is missing",
               [&] { infer_flux_transformer_config(shapes, "file.x"); });
    for (const std::vector<std::int64_t>& bad :
         {std::vector<std::int64_t>{}, {0}, {0, 4}, {1, 2, 3}}) {
      shapes[name] = bad;
      expect_bad(std::string("tensor ") + name + " has shape",
                 [&] { infer_flux_transformer_config(shapes, "file.x"); });
    }
  }
  expect_bad("shared.weight is missing", [] { infer_t5_config({}, "file.x"); });
  expect_bad("embeddings.token_embedding.weight is missing",
             [] { infer_clip_text_config({}, "file.x"); });
  expect_bad("decoder.conv_in.weight is missing",
             [] { infer_autoencoder_kl_config({}, "file.x"); });
}

TEST(InferConfig, HeadsThatAreNotFlux1s) {
  auto shapes = shapes_of(flux1_names("transformer"));
  const std::string norm = "transformer_blocks.0.attn.norm_q.weight";
  shapes[norm] = {64};
  const auto config = infer_flux_transformer_config(shapes, "file.x");
  EXPECT_EQ(config.num_attention_heads, 48);
  EXPECT_EQ(config.axes_dims_rope, (std::vector<std::int64_t>{8, 28, 28}));
  shapes[norm] = {48};
  expect_bad("config.json", [&] { infer_flux_transformer_config(shapes, "file.x"); });
  shapes[norm] = {100};
  expect_bad("(3072) is no multiple of", [&] { infer_flux_transformer_config(shapes, "file.x"); });

  auto clip_shapes = shapes_of(flux1_names("text_encoder"));
  clip_shapes["embeddings.token_embedding.weight"] = {49408, 100};
  expect_bad("(100) is no multiple of CLIP's head size (64)",
             [&] { infer_clip_text_config(clip_shapes, "file.x"); });
}

TEST(InferConfig, NormGroupsOfNarrowVaes) {
  auto shapes = shapes_of(flux1_names("vae"));
  const auto set_widths = [&](const std::vector<std::int64_t>& widths) {
    for (std::size_t i = 0; i < widths.size(); ++i) {
      const auto name = "decoder.up_blocks." + std::to_string(i) + ".resnets.0.conv1.weight";
      shapes[name][0] = widths[widths.size() - 1 - i];
    }
    return infer_autoencoder_kl_config(shapes, "file.x");
  };
  EXPECT_EQ(set_widths({24, 48, 96, 96}).norm_num_groups, 24);
  EXPECT_EQ(set_widths({64, 96, 128, 128}).norm_num_groups, 32);
  EXPECT_EQ(set_widths({48, 96, 96, 144}).norm_num_groups, 24);  // 48 in common, 24 divides it
  EXPECT_EQ(set_widths({7, 9, 11, 13}).norm_num_groups, 1);
  EXPECT_EQ(set_widths({24, 48, 96, 96}).block_out_channels,
            (std::vector<std::int64_t>{24, 48, 96, 96}));
}

TEST(InferConfig, ADecoderAloneAndNoAttention) {
  auto shapes = shapes_of(flux1_names("vae"));
  std::erase_if(shapes, [](const auto& shape) {
    return shape.first.starts_with("encoder.") ||
           shape.first.find("attentions") != std::string::npos;
  });
  auto config = infer_autoencoder_kl_config(shapes, "file.x");
  EXPECT_EQ(config.in_channels, 3);
  EXPECT_FALSE(config.mid_block_add_attention);
  shapes["quant_conv.weight"] = {32, 32, 1, 1};
  config = infer_autoencoder_kl_config(shapes, "file.x");
  EXPECT_TRUE(config.use_quant_conv);
  EXPECT_FALSE(config.use_post_quant_conv);
}

}  // namespace
}  // namespace steadyflux
