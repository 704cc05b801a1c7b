#include "checkpoints/other_models.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/utf8.h"
#include "weights/key_names.h"

namespace steadyflux {
namespace {

// A kind of model, and what the names of three of its tensors at most begin with, behind the
// prefixes of diffusion models. Close relatives of FLUX.1 first; where one's signs include
// another's, it stands before it.
struct Other {
  const char* what;
  std::array<const char*, 3> signs;
};

constexpr Other kDiffusionModels[] = {
    // With names of FLUX.1's.
    {"a FLUX.2 transformer", {"double_stream_modulation_img."}},
    {"a FLUX.2 transformer", {"single_stream_modulation."}},
    {"a FLUX.3 transformer", {"early_stream_modulations."}},
    {"a Chroma transformer", {"distilled_guidance_layer."}},
    {"a HunyuanVideo transformer", {"context_embedder.token_refiner."}},
    {"an Ovis-Image transformer", {"double_blocks.0.img_mlp.gate_proj."}},
    {"a Hunyuan3D transformer", {"latent_in.", "cond_in."}},
    {"a ControlNet for FLUX.1", {"controlnet_x_embedder."}},
    {"a ControlNet for FLUX.1", {"controlnet_blocks.", "double_blocks.0."}},
    {"a ControlNet", {"controlnet_blocks."}},
    {"an IP-Adapter for FLUX.1", {"double_blocks.0.processor.ip_adapter"}},
    {"FLUX.1 Redux, an image adapter (for --redux)", {"redux_up.", "redux_down."}},
    {"PuLID, a face adapter", {"pulid_ca."}},
    {"a FLUX.1 transformer in Nunchaku's SVDQuant format",
     {"single_transformer_blocks.0.mlp_fc1.", "transformer_blocks.0.qkv_proj."}},
    // Others.
    {"a Stable Diffusion 3.5 checkpoint", {"joint_blocks.0.context_block.attn.ln_q."}},
    {"a Stable Diffusion 3 checkpoint", {"joint_blocks.0.context_block."}},
    {"a Stable Diffusion 3 checkpoint", {"joint_blocks.0.", "x_embedder.", "context_embedder."}},
    {"a Stable Diffusion 3.5 transformer",
     {"pos_embed.proj.", "transformer_blocks.0.attn.norm_added_q.", "context_embedder."}},
    {"a Stable Diffusion 3 transformer",
     {"pos_embed.proj.", "transformer_blocks.0.attn.add_q_proj.", "context_embedder."}},
    {"a Qwen-Image transformer", {"transformer_blocks.0.img_mod.1."}},
    {"a Z-Image transformer", {"noise_refiner.0.", "cap_pad_token"}},
    {"a Lumina-Image 2 transformer", {"noise_refiner.0.", "context_refiner.0."}},
    {"a HiDream transformer", {"double_stream_blocks.0.block."}},
    {"a Bria Fibo transformer", {"caption_projection.0.linear.", "x_embedder."}},
    {"a Wan video transformer", {"head.modulation"}},
    {"a Wan video transformer", {"condition_embedder.time_proj.", "patch_embedding."}},
    {"a Wan video transformer",
     {"patch_embedding.", "blocks.0.self_attn.", "blocks.0.cross_attn."}},
    {"a PixArt transformer", {"t_block.1."}},
    {"a PixArt transformer", {"adaln_single.emb.", "pos_embed.proj."}},
    {"a Sana transformer", {"blocks.0.cross_attn.q_linear."}},
    {"a Sana transformer", {"caption_norm.", "caption_projection."}},
    {"an LTX-Video transformer", {"adaln_single.emb."}},
    {"an LTX-Video transformer", {"time_embed.emb.", "transformer_blocks.0.scale_shift_table"}},
    {"an AuraFlow transformer", {"double_layers.0.attn.w1q."}},
    {"an AuraFlow transformer", {"joint_transformer_blocks.0.attn."}},
    {"a Mochi video transformer", {"t5_yproj."}},
    {"a Mochi video transformer", {"pos_frequencies"}},
    {"a HunyuanDiT transformer", {"mlp_t5.0."}},
    {"a CogView transformer", {"patch_embed.text_proj.", "time_condition_embed."}},
    {"a CogVideoX transformer", {"patch_embed.text_proj."}},
    {"a Cosmos transformer", {"net.blocks.", "net.x_embedder."}},
    {"a Cosmos transformer", {"blocks.0.adaln_modulation_self_attn.", "x_embedder.proj.1."}},
    {"a Cosmos transformer", {"transformer_blocks.0.norm1.linear_1.", "patch_embed.proj."}},
    {"a Stable Cascade checkpoint", {"clip_txt_mapper."}},
    {"a Stable Cascade checkpoint", {"clip_txt_pooled_mapper."}},
    {"a Stable Cascade checkpoint", {"clip_mapper.", "down_blocks.1.0.channelwise."}},
};

// Without prefixes, or with those of their own.
constexpr Other kOtherFiles[] = {
    {"a ControlNet for Stable Diffusion", {"control_model."}},
    {"a ControlNet for Stable Diffusion", {"controlnet_cond_embedding."}},
    {"an IP-Adapter", {"ip_adapter."}},
    {"an IP-Adapter", {"image_proj."}},
    {"an IP-Adapter", {"ip_adapter_proj_model."}},
    {"PuLID, a face adapter", {"pulid_encoder."}},
    {"an ESRGAN upscaler", {"body.0.rdb1.conv1."}},
    {"an ESRGAN upscaler", {"model.1.sub.0.RDB1."}},
    {"a textual inversion embedding", {"emb_params"}},
    {"a textual inversion embedding", {"string_to_param."}},
    // Text and image encoders.
    {"a UMT5 text encoder", {"encoder.block.1.layer.0.SelfAttention.relative_attention_bias."}},
    {"a UMT5 text encoder", {"enc.blk.1.attn_rel_b."}},
    {"a first-generation T5 encoder (FLUX.1 wants T5 v1.1)",
     {"encoder.block.0.layer.1.DenseReluDense.wi."}},
    {"an OpenCLIP text encoder", {"transformer.resblocks.0.", "token_embedding."}},
    {"a SigLIP model", {"text_model.head.", "logit_bias"}},
    {"a language model", {"model.layers.0.self_attn."}},
    {"a language model", {"model.language_model.layers.0."}},
    {"a language model", {"language_model.model.layers.0."}},
    {"a language model", {"blk.0.attn_", "token_embd."}},
    {"an image encoder", {"v.blk.0."}},
    {"a CLIP image encoder", {"embeddings.class_embedding"}},
    // Autoencoders.
    {"the VAE of a video model", {"decoder.conv_in.conv_s."}},
    {"the VAE of Wan or Qwen-Image", {"decoder.middle.0.residual."}},
    {"the VAE of a video model", {"decoder.conv_in.conv."}},
    {"a tiny autoencoder (TAESD)", {"decoder.layers.0.", "encoder.layers.0."}},
    {"a tiny autoencoder (TAESD)", {"taesd_decoder."}},
    {"a tiny autoencoder (TAESD)", {"decoder.1.weight", "encoder.0.weight"}},
    {"a deep-compression autoencoder", {"encoder.project_in."}},
    {"a deep-compression autoencoder", {"decoder.up_blocks.1.0.", "encoder.down_blocks.1.0."}},
};

bool has_signs(const TensorNames& names, const std::string& prefix, const Other& other) {
  return std::all_of(other.signs.begin(), other.signs.end(), [&](const char* sign) {
    return sign == nullptr || names.begins(prefix + sign);
  });
}

std::string stable_diffusion(std::int64_t extra_width, std::int64_t text_width) {
  if (extra_width == 2560) return "a Stable Diffusion XL refiner checkpoint";
  if (extra_width == 2816 || text_width == 2048) return "a Stable Diffusion XL checkpoint";
  if (text_width == 768) return "a Stable Diffusion 1.x checkpoint";
  if (text_width == 1024) return "a Stable Diffusion 2.x checkpoint";
  return "a Stable Diffusion checkpoint";
}

// The U-Nets of Stable Diffusion: in its own names (which all-in-one files have), in diffusers'.
std::string describe_unet(const TensorNames& names, const std::string& prefix) {
  if (names.has(prefix + "input_blocks.0.0.weight")) {
    const std::string to_k = ".1.transformer_blocks.0.attn2.to_k.weight";
    // The first blocks with attention: SD 1 and 2, SDXL.
    const auto width = std::max(names.side(prefix + "input_blocks.1" + to_k, 1),
                                names.side(prefix + "input_blocks.4" + to_k, 1));
    return stable_diffusion(names.side(prefix + "label_emb.0.0.weight", 1), width);
  }
  if (names.has(prefix + "conv_in.weight") && names.begins(prefix + "time_embedding.") &&
      names.begins(prefix + "down_blocks.0.")) {
    const std::string to_k = ".attentions.0.transformer_blocks.0.attn2.to_k.weight";
    const auto width = std::max(names.side(prefix + "down_blocks.0" + to_k, 1),
                                names.side(prefix + "down_blocks.1" + to_k, 1));
    return stable_diffusion(names.side(prefix + "add_embedding.linear_1.weight", 1), width);
  }
  return {};
}

// An embedding for several text encoders: clip_l, clip_g, t5xxl, each one small matrix.
bool is_embedding(const TensorNames& names) {
  const auto is_encoder = [](const auto& tensor) {
    return (tensor.first == "clip_l" || tensor.first == "clip_g" || tensor.first == "t5xxl") &&
           tensor.second.shape.size() <= 2;
  };
  return !names.all().empty() && std::all_of(names.all().begin(), names.all().end(), is_encoder);
}

// CLIP's other sizes, and its other half; SigLIP's image encoder, which looks much like it.
std::string describe_clip(const TensorNames& names) {
  for (const char* optional : {"vision_model.", ""}) {  // CLIP's patches have no bias
    if (names.has(std::string(optional) + "embeddings.patch_embedding.bias")) {
      return "a SigLIP image encoder (for --image-encoder)";
    }
  }
  for (const auto prefix : known_prefixes(Component::kTextEncoder)) {
    for (const char* optional : {"text_model.", ""}) {
      const auto front = std::string(prefix) + optional;
      if (!names.begins(front + "encoder.layers.0.mlp.fc1.")) continue;
      const auto width = names.side(front + "final_layer_norm.weight", 0);
      if (width == 1280) return "a CLIP-G text encoder (FLUX.1 wants CLIP-L)";
      if (width == 1024) return "a CLIP-H text encoder (FLUX.1 wants CLIP-L)";
      return {};
    }
  }
  if (names.begins("vision_model.encoder.layers.0.")) return "a CLIP image encoder";
  return {};
}

}  // namespace

std::string describe_other_model(const TensorNames& names) {
  if (is_embedding(names)) return "a textual inversion embedding";
  for (const Other& other : kOtherFiles) {
    if (has_signs(names, "", other)) return other.what;
  }
  for (const auto prefix : known_prefixes(Component::kTransformer)) {
    const std::string front(prefix);
    for (const Other& other : kDiffusionModels) {
      if (has_signs(names, front, other)) return other.what;
    }
    if (names.begins(front + "txt_in.individual_token_refiner.")) {
      // The same model for stills: patches without an axis for time.
      return names.axes(front + "img_in.proj.weight") == 4 ? "a HunyuanImage transformer"
                                                           : "a HunyuanVideo transformer";
    }
    if (auto unet = describe_unet(names, front); !unet.empty()) return unet;
    // In FLUX.1's names, but without the pooled text that FLUX.1 takes.
    const bool bfl = names.begins(front + "double_blocks.0.img_attn.qkv.") &&
                     names.begins(front + "img_in.") && !names.begins(front + "vector_in.");
    const bool diffusers = names.begins(front + "transformer_blocks.0.attn.add_q_proj.") &&
                           names.begins(front + "x_embedder.") &&
                           !names.begins(front + "time_text_embed.text_embedder.");
    if (bfl || diffusers) {
      return "a relative of FLUX.1 that takes no pooled text (LongCat-Image, Ovis-Image, Bria, "
             "...)";
    }
  }
  if (auto clip = describe_clip(names); !clip.empty()) return clip;
  return {};
}

std::string describe_other_vae(const TensorNames& names) {
  for (const auto known : known_prefixes(Component::kVae)) {
    const std::string prefix(known);
    const std::string conv_in = prefix + "decoder.conv_in.weight";
    if (!names.has(conv_in)) continue;
    if (names.axes(conv_in) == 5) return "the VAE of a video model";
    const auto latents = names.side(conv_in, 1);
    const bool quant_conv = names.has(prefix + "post_quant_conv.weight");
    if (names.has(prefix + "bn.running_mean") || (latents == 32 && quant_conv)) {
      return "a FLUX.2 VAE (32 latent channels; FLUX.1's has 16)";
    }
    if (latents == 4 && quant_conv) {
      return "a Stable Diffusion VAE (4 latent channels; FLUX.1's has 16)";
    }
    return {};
  }
  return {};
}

std::string describe_architecture(const std::string& architecture) {
  if (architecture.empty()) return {};
  constexpr std::pair<std::string_view, const char*> kArchitectures[] = {
      {"sd1", "a Stable Diffusion 1.x model"},
      {"sdxl", "a Stable Diffusion XL model"},
      {"sd3", "a Stable Diffusion 3 model"},
      {"aura", "an AuraFlow model"},
      {"hidream", "a HiDream model"},
      {"hyvid", "a HunyuanVideo model"},
      {"wan", "a Wan video model"},
      {"ltxv", "an LTX-Video model"},
      {"cosmos", "a Cosmos model"},
      {"lumina2", "a Lumina-Image 2 or Z-Image model"},
      {"qwen_image", "a Qwen-Image model"},
      {"clip", "an image encoder"},
  };
  for (const auto& [name, what] : kArchitectures) {
    if (name == architecture) return what;
  }
  return fmt::format("a GGUF model of the architecture '{}'", printable(architecture));
}

}  // namespace steadyflux
