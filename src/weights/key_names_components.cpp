// The text encoders and the VAE: each stored tensor is one of ours, only its name differs.
#include <charconv>

#include "weights/key_names_parse.h"

namespace steadyflux {
namespace {

using key_names::is_weight_or_bias;
using key_names::join;
using key_names::ours_of;
using key_names::Rename;
using key_names::split_leaf;
using key_names::stored_of;
using key_names::take;
using key_names::take_number;
using key_names::whole;

std::vector<RowPlacement> whole_or_nothing(std::string name) {
  if (name.empty()) return {};
  return whole(std::move(name));
}

// SigLIP's image encoder has the same.
constexpr std::string_view kClipLayer[] = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj",
    "layer_norm1",      "layer_norm2",      "mlp.fc1",          "mlp.fc2"};

template <typename Table>
bool contains(const Table& table, std::string_view name) {
  return std::find(std::begin(table), std::end(table), name) != std::end(table);
}

// llama.cpp's modules of a T5 block.
constexpr Rename kT5Block[] = {
    {"attn_q", "layer.0.SelfAttention.q"},
    {"attn_k", "layer.0.SelfAttention.k"},
    {"attn_v", "layer.0.SelfAttention.v"},
    {"attn_o", "layer.0.SelfAttention.o"},
    {"attn_rel_b", "layer.0.SelfAttention.relative_attention_bias"},
    {"attn_norm", "layer.0.layer_norm"},
    {"ffn_gate", "layer.1.DenseReluDense.wi_0"},
    {"ffn_up", "layer.1.DenseReluDense.wi_1"},
    {"ffn_down", "layer.1.DenseReluDense.wo"},
    {"ffn_norm", "layer.1.layer_norm"},
};

// T5 has weights only, no biases.
std::string t5_name(std::string_view stored) {
  auto [module, leaf] = split_leaf(stored);
  if (leaf != "weight") return {};
  if (module == "shared" || module == "encoder.embed_tokens" || module == "token_embd") {
    return "shared.weight";
  }
  if (module == "encoder.final_layer_norm" || module == "enc.output_norm") {
    return "encoder.final_layer_norm.weight";
  }
  if (take(module, "enc.blk.")) {
    const auto number = take_number(module);
    const auto ours = ours_of(kT5Block, module);
    if (number.empty() || ours.empty()) return {};
    return join("encoder.block.", number, ".", ours, ".weight");
  }
  if (take(module, "encoder.block.")) {
    const auto number = take_number(module);
    if (number.empty() || stored_of(kT5Block, module).empty()) return {};
    return std::string(stored);
  }
  return {};
}

constexpr Rename kResnet[] = {
    {"norm1", "norm1"},
    {"conv1", "conv1"},
    {"norm2", "norm2"},
    {"conv2", "conv2"},
    {"nin_shortcut", "conv_shortcut"},
};
constexpr Rename kVaeAttention[] = {
    {"norm", "group_norm"}, {"q", "to_q"}, {"k", "to_k"}, {"v", "to_v"}, {"proj_out", "to_out.0"},
};
constexpr std::string_view kVaeAttentionBefore[][2] = {
    {"query", "to_q"}, {"key", "to_k"}, {"value", "to_v"}, {"proj_attn", "to_out.0"}};
constexpr Rename kVaeEnds[] = {
    {"conv_in", "conv_in"}, {"norm_out", "conv_norm_out"}, {"conv_out", "conv_out"}};

// encoder.down.N or decoder.up.N, behind that number; "" for what is not there.
std::string vae_stage_module(std::string_view module, std::string_view sampler) {
  if (take(module, "block.")) {
    const auto number = take_number(module);
    const auto ours = ours_of(kResnet, module);
    return number.empty() || ours.empty() ? "" : join("resnets.", number, ".", ours);
  }
  return module == join(sampler, ".conv") ? join(sampler, "rs.0.conv") : "";
}

// What take_number() took; -1 if that was nothing.
int to_int(std::string_view number) {
  int value = -1;
  std::from_chars(number.data(), number.data() + number.size(), value);
  return value;
}

// The module's diffusers name inside "encoder." or "decoder."; "" if it has none.
std::string vae_module(std::string_view module, bool decoder, int up_blocks) {
  if (const auto ours = ours_of(kVaeEnds, module); !ours.empty()) return std::string(ours);
  if (take(module, "mid.block_")) {
    const bool second = module.starts_with("2.");
    if (!take(module, "1.") && !take(module, "2.")) return {};
    const auto ours = ours_of(kResnet, module);
    return ours.empty() ? "" : join("mid_block.resnets.", second ? "1." : "0.", ours);
  }
  if (take(module, "mid.attn_1.")) {
    const auto ours = ours_of(kVaeAttention, module);
    return ours.empty() ? "" : join("mid_block.attentions.0.", ours);
  }
  if (!decoder && take(module, "down.")) {
    const auto number = take_number(module);
    const auto ours = vae_stage_module(module, "downsample");
    return number.empty() || ours.empty() ? "" : join("down_blocks.", number, ".", ours);
  }
  if (decoder && take(module, "up.")) {
    const auto number = take_number(module);
    const auto ours = vae_stage_module(module, "upsample");
    const int index = to_int(number);
    if (index < 0 || index >= up_blocks || ours.empty()) return {};
    return join("up_blocks.", std::to_string(up_blocks - 1 - index), ".", ours);
  }
  return {};
}

// Is it a module of diffusers inside "encoder." or "decoder."? Returns its present name: attention
// had others before 0.17.
std::string vae_diffusers_module(std::string_view module, bool decoder) {
  const std::string_view whole_name = module;
  if (!stored_of(kVaeEnds, module).empty()) return std::string(whole_name);
  if (take(module, "mid_block.attentions.0.")) {
    for (const auto& [before, now] : kVaeAttentionBefore) {
      if (module == before) return join("mid_block.attentions.0.", now);
    }
    return stored_of(kVaeAttention, module).empty() ? "" : std::string(whole_name);
  }
  const bool stage = take(module, decoder ? "up_blocks." : "down_blocks.");
  if (stage ? take_number(module).empty() : !take(module, "mid_block.")) return {};
  if (take(module, "resnets.")) {
    if (take_number(module).empty() || stored_of(kResnet, module).empty()) return {};
    return std::string(whole_name);
  }
  const auto sampler = decoder ? "upsamplers.0.conv" : "downsamplers.0.conv";
  return stage && module == sampler ? std::string(whole_name) : "";
}

}  // namespace

std::vector<RowPlacement> text_encoder_placements(const std::string& stored) {
  std::string_view name = stored;
  take(name, "text_model.");
  auto [module, leaf] = split_leaf(name);
  const bool embedding =
      module == "embeddings.token_embedding" || module == "embeddings.position_embedding";
  if (embedding) return leaf == "weight" ? whole(std::string(name)) : std::vector<RowPlacement>();
  if (!is_weight_or_bias(leaf)) return {};
  if (module == "final_layer_norm") return whole(std::string(name));
  if (!take(module, "encoder.layers.") || take_number(module).empty()) return {};
  return contains(kClipLayer, module) ? whole(std::string(name)) : std::vector<RowPlacement>();
}

std::vector<RowPlacement> text_encoder_2_placements(const std::string& stored) {
  return whole_or_nothing(t5_name(stored));
}

std::vector<RowPlacement> image_encoder_placements(const std::string& stored) {
  std::string_view name = stored;
  take(name, "vision_model.");
  auto [module, leaf] = split_leaf(name);
  if (!is_weight_or_bias(leaf)) return {};
  constexpr std::string_view kEnds[] = {"embeddings.patch_embedding",
                                        "embeddings.position_embedding", "post_layernorm"};
  if (contains(kEnds, module)) return whole(std::string(name));
  if (!take(module, "encoder.layers.") || take_number(module).empty()) return {};
  return contains(kClipLayer, module) ? whole(std::string(name)) : std::vector<RowPlacement>();
}

std::vector<RowPlacement> image_embedder_placements(const std::string& stored) {
  const auto [module, leaf] = split_leaf(stored);
  const bool known = (module == "redux_up" || module == "redux_down") && is_weight_or_bias(leaf);
  return known ? whole(stored) : std::vector<RowPlacement>();
}

std::vector<RowPlacement> vae_placements(const std::string& stored, int up_blocks) {
  auto [module, leaf] = split_leaf(stored);
  if (!is_weight_or_bias(leaf)) return {};
  if (module == "quant_conv" || module == "post_quant_conv") return whole(stored);
  const std::string_view half = module.substr(0, 8);
  const bool decoder = half == "decoder.";
  if (!decoder && half != "encoder.") return {};
  module.remove_prefix(8);
  std::string ours = vae_module(module, decoder, up_blocks);
  if (ours.empty()) ours = vae_diffusers_module(module, decoder);
  return ours.empty() ? std::vector<RowPlacement>() : whole(join(half, ours, ".", leaf));
}

int least_up_blocks(const std::string& stored) {
  std::string_view name = stored;
  return take(name, "decoder.up.") ? to_int(take_number(name)) + 1 : 0;
}

}  // namespace steadyflux
