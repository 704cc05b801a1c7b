// Files as people have them, by the names and shapes of their tensors: FLUX.1's own in every naming
// and under every prefix, and those of other models, which are named and not taken for FLUX.1.
#include "checkpoints/recognise.h"

#include <gtest/gtest.h>

#include "checkpoints/flux1_names.h"

namespace steadyflux {
namespace {

using testing::flux1_names;
using testing::Shapes;
using testing::shapes_of;
using testing::stored_shapes_of;
using testing::views_of;
using Views = std::map<std::string, TensorView>;

Views bfl_transformer(const std::string& prefix = "") {
  return views_of(stored_shapes_of(flux1_names("transformer")), prefix);
}

void erase_names_with(Views& views, const std::string& part) {
  std::erase_if(views,
                [&](const auto& view) { return view.first.find(part) != std::string::npos; });
}

void expect_one(const Views& views, FileKind kind, const FilePart& part,
                const std::string& description) {
  const auto file = recognise(views);
  EXPECT_EQ(file.kind, kind) << file.description;
  EXPECT_EQ(file.description, description);
  ASSERT_EQ(file.parts.size(), 1u) << file.description;
  EXPECT_EQ(file.parts.front(), part);
}

TEST(Recognise, TransformersInBothNamings) {
  for (const char* prefix : {"", "model.diffusion_model.", "diffusion_model.", "transformer."}) {
    expect_one(bfl_transformer(prefix), FileKind::kTransformer,
               {Component::kTransformer, Naming::kBfl, prefix},
               "a FLUX.1-dev transformer in Black Forest Labs' names");
    expect_one(views_of(shapes_of(flux1_names("transformer")), prefix), FileKind::kTransformer,
               {Component::kTransformer, Naming::kDiffusers, prefix},
               "a FLUX.1-dev transformer in diffusers' names");
  }
}

TEST(Recognise, VariantsOfTheTransformer) {
  auto views = bfl_transformer();
  EXPECT_EQ(recognise(views).variant, FluxVariant::kDev);
  views["img_in.weight"].shape = {3072, 384};
  EXPECT_EQ(recognise(views).variant, FluxVariant::kFill);
  views["img_in.weight"].shape = {3072, 128};
  EXPECT_EQ(recognise(views).variant, FluxVariant::kControl);
  views["img_in.weight"].shape = {3072, 64};
  erase_names_with(views, "guidance_in");
  EXPECT_EQ(recognise(views).variant, FluxVariant::kSchnell);

  auto diffusers = views_of(shapes_of(flux1_names("transformer")));
  diffusers["x_embedder.weight"].shape = {3072, 384};
  EXPECT_EQ(recognise(diffusers).variant, FluxVariant::kFill);
  // bitsandbytes packs two values into a byte, and forgets the shape.
  diffusers["x_embedder.weight"].dtype = DType::kU8;
  diffusers["x_embedder.weight"].shape = {3072 * 128 / 2, 1};
  diffusers["x_embedder.weight"].nbytes = 3072 * 128 / 2;
  diffusers["x_embedder.weight.quant_state.bitsandbytes__nf4"];
  EXPECT_EQ(recognise(diffusers).variant, FluxVariant::kControl);
}

TEST(Recognise, TransformersWithOneKindOfBlock) {
  auto views = bfl_transformer();
  erase_names_with(views, "double_blocks");
  EXPECT_EQ(recognise(views).kind, FileKind::kTransformer);
  auto diffusers = views_of(shapes_of(flux1_names("transformer")));
  erase_names_with(diffusers, "single_transformer_blocks");
  EXPECT_EQ(recognise(diffusers).kind, FileKind::kTransformer);
}

TEST(Recognise, QuantisedFilesAreWhatTheyWere) {
  auto views = bfl_transformer("model.diffusion_model.");
  Views more;
  for (const auto& [name, view] : views) {
    if (view.shape.size() != 2) continue;
    more[name + ".absmax"];
    more[name + ".quant_state.bitsandbytes__nf4"];
  }
  views.merge(more);
  views["model.diffusion_model.scaled_fp8"];
  EXPECT_EQ(recognise(views).kind, FileKind::kTransformer);
}

TEST(Recognise, TextEncodersAndVae) {
  const auto t5 = flux1_names("text_encoder_2"), clip = flux1_names("text_encoder"),
             vae = flux1_names("vae");
  expect_one(views_of(shapes_of(t5)), FileKind::kTextEncoder2,
             {Component::kTextEncoder2, Naming::kDiffusers, ""}, "a T5-XXL text encoder");
  expect_one(views_of(stored_shapes_of(t5)), FileKind::kTextEncoder2,
             {Component::kTextEncoder2, Naming::kLlamaCpp, ""}, "a T5-XXL text encoder");
  expect_one(views_of(shapes_of(clip)), FileKind::kTextEncoder,
             {Component::kTextEncoder, Naming::kDiffusers, ""}, "a CLIP text encoder");
  expect_one(views_of(stored_shapes_of(clip)), FileKind::kTextEncoder,
             {Component::kTextEncoder, Naming::kDiffusers, ""}, "a CLIP text encoder");
  expect_one(views_of(shapes_of(vae)), FileKind::kVae, {Component::kVae, Naming::kDiffusers, ""},
             "a VAE in diffusers' names");
  expect_one(views_of(stored_shapes_of(vae), "first_stage_model."), FileKind::kVae,
             {Component::kVae, Naming::kBfl, "first_stage_model."},
             "a VAE in Black Forest Labs' names");
}

// As ComfyUI publishes flux1-dev-fp8.safetensors.
TEST(Recognise, AllInOne) {
  auto views = bfl_transformer("model.diffusion_model.");
  views.merge(views_of(stored_shapes_of(flux1_names("vae")), "vae."));
  views.merge(
      views_of(stored_shapes_of(flux1_names("text_encoder")), "text_encoders.clip_l.transformer."));
  views.merge(
      views_of(shapes_of(flux1_names("text_encoder_2")), "text_encoders.t5xxl.transformer."));
  const auto file = recognise(views);
  EXPECT_EQ(file.kind, FileKind::kAllInOne);
  EXPECT_EQ(file.description, "a FLUX.1-dev checkpoint with transformer, CLIP, T5, VAE");
  EXPECT_EQ(file.parts,
            (std::vector<FilePart>{
                {Component::kTransformer, Naming::kBfl, "model.diffusion_model."},
                {Component::kTextEncoder, Naming::kDiffusers, "text_encoders.clip_l.transformer."},
                {Component::kTextEncoder2, Naming::kDiffusers, "text_encoders.t5xxl.transformer."},
                {Component::kVae, Naming::kBfl, "vae."}}));

  // Another model's VAE in it is none of ours.
  views["vae.decoder.conv_in.weight"].shape = {512, 4, 3, 3};
  views["vae.post_quant_conv.weight"];
  EXPECT_EQ(recognise(views).parts.size(), 3u);
}

TEST(Recognise, Loras) {
  const std::pair<const char*, const char*> kNames[] = {
      {"transformer.transformer_blocks.0.attn.to_q.lora_A.weight", "a LoRA"},
      {"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight",
       "a LoRA for FLUX.1 or a relative of it"},
      {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight",
       "a LoRA for FLUX.1 or a relative of it"},
      {"double_blocks.0.processor.proj_lora1.down.weight", "a LoRA for FLUX.1 or a relative of it"},
      {"lora_unet_single_blocks_0_linear1.lokr_w1", "a LoRA for FLUX.1 or a relative of it"},
      {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight",
       "a LoRA for Stable Diffusion"},
      {"lora_te_text_model_encoder_layers_0_mlp_fc1.hada_w1_a", "a LoRA for Stable Diffusion"}};
  for (const auto& [name, description] : kNames) {
    const auto file = recognise(views_of({{name, {16, 64}}}));
    EXPECT_EQ(file.kind, FileKind::kLora) << name;
    EXPECT_EQ(file.description, description) << name;
    EXPECT_TRUE(file.parts.empty());
  }
  // Depth and Canny come as LoRAs with whole norms in them.
  auto views = bfl_transformer();
  views["double_blocks.0.img_attn.qkv.lora_A.weight"];
  EXPECT_EQ(recognise(views).kind, FileKind::kLora);
}

struct OtherFile {
  const char* description;
  Shapes shapes;
};

void expect_other(const Views& views, const std::string& description) {
  const auto file = recognise(views);
  EXPECT_EQ(file.kind, FileKind::kOther) << description;
  EXPECT_EQ(file.description, description);
  EXPECT_TRUE(file.parts.empty()) << description;
}

TEST(Recognise, OtherModels) {
  const std::vector<std::int64_t> s = {8, 8};
  const std::string unet = "model.diffusion_model.";
  const std::string to_k = "1.transformer_blocks.0.attn2.to_k.weight";
  const OtherFile kFiles[] = {
      {"a Stable Diffusion 1.x checkpoint",
       {{unet + "input_blocks.0.0.weight", {320, 4, 3, 3}},
        {unet + "input_blocks.1." + to_k, {320, 768}},
        {"cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight", s},
        {"first_stage_model.decoder.conv_in.weight", {512, 4, 3, 3}},
        {"first_stage_model.decoder.up.0.block.0.conv1.weight", {128, 256, 3, 3}}}},
      {"a Stable Diffusion 2.x checkpoint",
       {{unet + "input_blocks.0.0.weight", {320, 4, 3, 3}},
        {unet + "input_blocks.1." + to_k, {320, 1024}}}},
      {"a Stable Diffusion XL checkpoint",
       {{unet + "input_blocks.0.0.weight", {320, 4, 3, 3}},
        {unet + "input_blocks.4." + to_k, {640, 2048}},
        {unet + "label_emb.0.0.weight", {1280, 2816}}}},
      {"a Stable Diffusion XL refiner checkpoint",
       {{unet + "input_blocks.0.0.weight", {384, 4, 3, 3}},
        {unet + "label_emb.0.0.weight", {1536, 2560}}}},
      {"a Stable Diffusion XL checkpoint",
       {{"conv_in.weight", {320, 4, 3, 3}},
        {"time_embedding.linear_1.weight", s},
        {"down_blocks.0.resnets.0.conv1.weight", s},
        {"add_embedding.linear_1.weight", {1280, 2816}}}},
      {"a Stable Diffusion 3 checkpoint",
       {{unet + "joint_blocks.0.context_block.attn.qkv.weight", s}}},
      {"a Stable Diffusion 3 checkpoint",
       {{"joint_blocks.0.x_block.attn.qkv.weight", s},
        {"joint_blocks.0.context_block.attn.qkv.weight", s},
        {"x_embedder.proj.weight", {1536, 16, 2, 2}},
        {"context_embedder.weight", {1536, 4096}}}},
      {"a Stable Diffusion 3.5 checkpoint",
       {{unet + "joint_blocks.0.context_block.attn.qkv.weight", s},
        {unet + "joint_blocks.0.context_block.attn.ln_q.weight", {64}},
        {unet + "x_embedder.proj.weight", {2432, 16, 2, 2}},
        {unet + "context_embedder.weight", {2432, 4096}},
        {"first_stage_model.decoder.conv_in.weight", {512, 16, 3, 3}}}},
      {"a Stable Diffusion 3 transformer",
       {{"pos_embed.proj.weight", {1536, 16, 2, 2}},
        {"transformer_blocks.0.attn.add_q_proj.weight", s},
        {"time_text_embed.text_embedder.linear_1.weight", s},
        {"context_embedder.weight", s}}},
      {"a Stable Diffusion 3.5 transformer",
       {{"pos_embed.proj.weight", {2432, 16, 2, 2}},
        {"transformer_blocks.0.attn.add_q_proj.weight", s},
        {"transformer_blocks.0.attn.norm_added_q.weight", {64}},
        {"time_text_embed.text_embedder.linear_1.weight", s},
        {"context_embedder.weight", s}}},
      {"a HunyuanVideo transformer",
       {{"img_in.proj.weight", {3072, 16, 1, 2, 2}},
        {"vector_in.in_layer.weight", s},
        {"double_blocks.0.img_attn_qkv.weight", s},
        {"single_blocks.0.linear1.weight", s},
        {"txt_in.individual_token_refiner.blocks.0.mlp.0.weight", s}}},
      {"a HunyuanVideo transformer",
       {{"x_embedder.proj.weight", {3072, 16, 1, 2, 2}},
        {"context_embedder.token_refiner.refiner_blocks.0.attn.to_q.weight", s},
        {"time_text_embed.text_embedder.linear_1.weight", s},
        {"transformer_blocks.0.attn.add_q_proj.weight", s},
        {"single_transformer_blocks.0.proj_mlp.weight", s}}},
      {"a HunyuanImage transformer",
       {{"img_in.proj.weight", {3584, 64, 1, 1}},
        {"double_blocks.0.img_attn_qkv.weight", s},
        {"txt_in.individual_token_refiner.blocks.0.mlp.0.weight", s}}},
      {"a Chroma transformer",
       {{"distilled_guidance_layer.in_proj.weight", s},
        {"x_embedder.weight", s},
        {"transformer_blocks.0.attn.add_q_proj.weight", s},
        {"single_transformer_blocks.0.proj_mlp.weight", s}}},
      {"a Chroma transformer",
       {{"distilled_guidance_layer.in_proj.bias", {8}},
        {"img_in.weight", s},
        {"double_blocks.0.img_attn.qkv.weight", s}}},
      {"a FLUX.2 transformer",
       {{"double_stream_modulation_img.lin.weight", s},
        {"img_in.weight", s},
        {"double_blocks.0.img_attn.qkv.weight", s}}},
      {"a Z-Image transformer",
       {{unet + "noise_refiner.0.attention.qkv.weight", s}, {unet + "cap_pad_token", {1, 8}}}},
      {"a Qwen-Image transformer",
       {{"transformer_blocks.0.img_mod.1.weight", s}, {"img_in.weight", s}}},
      {"a HiDream transformer", {{"double_stream_blocks.0.block.adaLN_modulation.1.bias", {8}}}},
      {"a Wan video transformer", {{unet + "head.modulation", {1, 2, 8}}}},
      {"a Wan video transformer",
       {{"patch_embedding.weight", {1536, 16, 1, 2, 2}},
        {"blocks.0.self_attn.q.weight", s},
        {"blocks.0.cross_attn.k.weight", s}}},
      {"a Wan video transformer",
       {{"patch_embedding.weight", {1536, 16, 1, 2, 2}},
        {"condition_embedder.time_proj.weight", s},
        {"blocks.0.attn1.to_q.weight", s}}},
      {"a Qwen-Image transformer",
       {{unet + "transformer_blocks.0.img_mod.1.weight", s},
        {unet + "transformer_blocks.0.attn.add_q_proj.weight", s},
        {unet + "txt_norm.weight", {3584}}}},
      {"a ControlNet for FLUX.1",
       {{"controlnet_blocks.0.weight", s},
        {"double_blocks.0.img_attn.qkv.weight", s},
        {"img_in.weight", s},
        {"vector_in.in_layer.weight", s},
        {"input_hint_block.0.weight", {16, 3, 3, 3}}}},
      {"a ControlNet for FLUX.1",
       {{"controlnet_x_embedder.weight", s},
        {"transformer_blocks.0.attn.add_q_proj.weight", s},
        {"x_embedder.weight", s},
        {"time_text_embed.text_embedder.linear_1.weight", s}}},
      {"an IP-Adapter for FLUX.1",
       {{"double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight", s}}},
      {"FLUX.1 Redux, an image adapter (for --redux)",
       {{"redux_up.weight", s}, {"redux_down.weight", s}}},
      {"a SigLIP image encoder (for --image-encoder)",
       {{"vision_model.embeddings.patch_embedding.bias", s},
        {"vision_model.encoder.layers.0.mlp.fc1.weight", s}}},
      {"a FLUX.1 transformer in Nunchaku's SVDQuant format",
       {{"single_transformer_blocks.0.mlp_fc1.qweight", s},
        {"transformer_blocks.0.qkv_proj.qweight", s}}},
      {"a relative of FLUX.1 that takes no pooled text (LongCat-Image, Ovis-Image, Bria, ...)",
       {{"img_in.weight", s}, {"double_blocks.0.img_attn.qkv.weight", s}}},
      {"a textual inversion embedding", {{"clip_l", {8, 768}}, {"clip_g", {8, 1280}}}},
      {"a textual inversion embedding", {{"emb_params", {8, 768}}}},
      {"a language model", {{"token_embd.weight", s}, {"blk.0.attn_q.weight", s}}},
      {"a language model", {{"model.layers.0.self_attn.q_proj.weight", s}}},
      {"an OpenCLIP text encoder",
       {{"transformer.resblocks.0.attn.in_proj_weight", s}, {"token_embedding.weight", s}}},
      {"a CLIP-G text encoder (FLUX.1 wants CLIP-L)",
       {{"text_model.encoder.layers.0.mlp.fc1.weight", {5120, 1280}},
        {"text_model.embeddings.token_embedding.weight", {49408, 1280}},
        {"text_model.final_layer_norm.weight", {1280}}}},
      {"the VAE of Wan or Qwen-Image", {{"decoder.middle.0.residual.0.gamma", s}}},
      {"a tiny autoencoder (TAESD)", {{"decoder.1.weight", s}, {"encoder.0.weight", s}}},
  };
  for (const OtherFile& file : kFiles) expect_other(views_of(file.shapes), file.description);
}

TEST(Recognise, OtherVaes) {
  auto views = views_of(stored_shapes_of(flux1_names("vae")));
  views["decoder.conv_in.weight"].shape = {512, 4, 3, 3};
  EXPECT_EQ(recognise(views).kind, FileKind::kVae);  // a small VAE without quant_conv is possible
  views["post_quant_conv.weight"].shape = {4, 4, 1, 1};
  expect_other(views, "a Stable Diffusion VAE (4 latent channels; FLUX.1's has 16)");
  views["decoder.conv_in.weight"].shape = {512, 32, 3, 3};
  expect_other(views, "a FLUX.2 VAE (32 latent channels; FLUX.1's has 16)");
}

TEST(Recognise, OtherT5s) {
  auto views = views_of(shapes_of(flux1_names("text_encoder_2")));
  views["encoder.final_layer_norm.weight"].shape = {2048};
  const auto file = recognise(views);
  EXPECT_EQ(file.kind, FileKind::kTextEncoder2);
  EXPECT_EQ(file.description, "a T5-XL text encoder of width 2048 (FLUX.1 has T5-XXL, width 4096)");
  views["encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"];
  expect_other(views, "a UMT5 text encoder");
}

TEST(Recognise, ArchitectureOfGguf) {
  const auto nothing = views_of({{"some.tensor", {8, 8}}});
  EXPECT_EQ(recognise(nothing).kind, FileKind::kUnknown);
  EXPECT_EQ(recognise(nothing).description,
            "an unknown kind of file (1 tensors, the first is 'some.tensor')");
  EXPECT_EQ(recognise(nothing, "hidream").description, "a HiDream model");
  EXPECT_EQ(recognise(nothing, "x\ny").description, "a GGUF model of the architecture 'x\\x0Ay'");
  // Names decide.
  EXPECT_EQ(recognise(bfl_transformer(), "sd3").kind, FileKind::kTransformer);
  EXPECT_EQ(recognise({}).kind, FileKind::kUnknown);
}

}  // namespace
}  // namespace steadyflux
