#include "lora/lora_keys.h"

#include <algorithm>

namespace steadyflux {
namespace {

struct Ending {
  std::string_view text;
  LoraRole role;
};

// Longer endings before those that they end with.
constexpr Ending kEndings[] = {
    {".lora_linear_layer.down.weight", LoraRole::kDown},
    {".lora_linear_layer.up.weight", LoraRole::kUp},
    {".lora.down.weight", LoraRole::kDown},
    {".lora.up.weight", LoraRole::kUp},
    {"_lora.down.weight", LoraRole::kDown},
    {"_lora.up.weight", LoraRole::kUp},
    {".lora_down.weight", LoraRole::kDown},
    {".lora_up.weight", LoraRole::kUp},
    {".lora_mid.weight", LoraRole::kMid},
    {".down.weight", LoraRole::kDown},
    {".up.weight", LoraRole::kUp},
    {".dora_scale", LoraRole::kDoraScale},
    {".hada_w1_a", LoraRole::kHadaW1A},
    {".hada_w1_b", LoraRole::kHadaW1B},
    {".hada_w2_a", LoraRole::kHadaW2A},
    {".hada_w2_b", LoraRole::kHadaW2B},
    {".hada_t1", LoraRole::kHadaTucker},
    {".hada_t2", LoraRole::kHadaTucker},
    {".lokr_w1", LoraRole::kLokrW1},
    {".lokr_w1_a", LoraRole::kLokrW1A},
    {".lokr_w1_b", LoraRole::kLokrW1B},
    {".lokr_w2", LoraRole::kLokrW2},
    {".lokr_w2_a", LoraRole::kLokrW2A},
    {".lokr_w2_b", LoraRole::kLokrW2B},
    {".lokr_t1", LoraRole::kLokrTucker},
    {".lokr_t2", LoraRole::kLokrTucker},
    {".diff", LoraRole::kDiff},
    {".diff_b", LoraRole::kDiffBias},
    {".w_norm", LoraRole::kDiff},
    {".b_norm", LoraRole::kDiffBias},
};

// peft's: ".lora_A.weight" or, with an adapter's name, ".lora_A.default.weight".
std::optional<LoraKey> split_peft_key(std::string_view key) {
  struct Part {
    std::string_view text;
    LoraRole weight;
    std::optional<LoraRole> bias;
  };
  constexpr Part kParts[] = {
      {".lora_A", LoraRole::kDown, std::nullopt},
      {".lora_B", LoraRole::kUp, LoraRole::kUpBias},
      {".lora_magnitude_vector", LoraRole::kDoraScale, std::nullopt},
  };
  for (const Part& part : kParts) {
    const std::size_t at = key.rfind(part.text);
    if (at == std::string_view::npos || at == 0) continue;
    std::string_view rest = key.substr(at + part.text.size());
    const bool is_bias = rest.ends_with(".bias");
    const bool is_weight = rest.ends_with(".weight");
    // Only the magnitude comes without ".weight".
    if (!is_weight && !is_bias && part.weight != LoraRole::kDoraScale) continue;
    if (is_bias && !part.bias) continue;
    if (is_weight || is_bias) rest = rest.substr(0, rest.rfind('.'));
    const bool has_adapter = !rest.empty();
    if (has_adapter && (rest[0] != '.' || rest.find('.', 1) != std::string_view::npos)) continue;
    return LoraKey{key.substr(0, at), is_bias ? *part.bias : part.weight};
  }
  return std::nullopt;
}

// Control LoRAs have the weights of norms as they are to be: "norm_q.weight", BFL's
// "query_norm.scale".
std::optional<LoraKey> split_norm_key(std::string_view key) {
  constexpr std::string_view kNorms[] = {".norm_q",       ".norm_k",     ".norm_added_q",
                                         ".norm_added_k", ".query_norm", ".key_norm"};
  const std::size_t dot = key.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const auto leaf = key.substr(dot + 1);
  const auto stem = key.substr(0, dot);
  const bool is_norm = std::any_of(std::begin(kNorms), std::end(kNorms),
                                   [&](std::string_view norm) { return stem.ends_with(norm); });
  if (!is_norm || (leaf != "weight" && leaf != "scale")) return std::nullopt;
  return LoraKey{stem, LoraRole::kWhole};
}

enum class Fused { kNo, kQkv, kAddedQkv, kQkvMlp, kSwappedHalves };

struct Pattern {
  std::string_view name;   // '#' stands for a block's number, '.' for '.' or '_'
  std::string_view layer;  // with the same number; empty: the same name
  Fused fused = Fused::kNo;
};

// Names of the original code, and XLabs' names for the same layers.
constexpr Pattern kBflNames[] = {
    {"double_blocks.#.img_attn.qkv", "transformer_blocks.#.attn.", Fused::kQkv},
    {"double_blocks.#.txt_attn.qkv", "transformer_blocks.#.attn.", Fused::kAddedQkv},
    {"double_blocks.#.img_attn.proj", "transformer_blocks.#.attn.to_out.0"},
    {"double_blocks.#.txt_attn.proj", "transformer_blocks.#.attn.to_add_out"},
    {"double_blocks.#.img_attn.norm.query_norm", "transformer_blocks.#.attn.norm_q"},
    {"double_blocks.#.img_attn.norm.key_norm", "transformer_blocks.#.attn.norm_k"},
    {"double_blocks.#.txt_attn.norm.query_norm", "transformer_blocks.#.attn.norm_added_q"},
    {"double_blocks.#.txt_attn.norm.key_norm", "transformer_blocks.#.attn.norm_added_k"},
    {"double_blocks.#.img_mlp.0", "transformer_blocks.#.ff.net.0.proj"},
    {"double_blocks.#.img_mlp.2", "transformer_blocks.#.ff.net.2"},
    {"double_blocks.#.txt_mlp.0", "transformer_blocks.#.ff_context.net.0.proj"},
    {"double_blocks.#.txt_mlp.2", "transformer_blocks.#.ff_context.net.2"},
    {"double_blocks.#.img_mod.lin", "transformer_blocks.#.norm1.linear"},
    {"double_blocks.#.txt_mod.lin", "transformer_blocks.#.norm1_context.linear"},
    {"single_blocks.#.linear1", "single_transformer_blocks.#.", Fused::kQkvMlp},
    {"single_blocks.#.linear1_qkv", "single_transformer_blocks.#.attn.", Fused::kQkv},
    {"single_blocks.#.linear2", "single_transformer_blocks.#.proj_out"},
    {"single_blocks.#.modulation.lin", "single_transformer_blocks.#.norm.linear"},
    {"single_blocks.#.norm.query_norm", "single_transformer_blocks.#.attn.norm_q"},
    {"single_blocks.#.norm.key_norm", "single_transformer_blocks.#.attn.norm_k"},
    {"img_in", "x_embedder"},
    {"txt_in", "context_embedder"},
    {"time_in.in_layer", "time_text_embed.timestep_embedder.linear_1"},
    {"time_in.out_layer", "time_text_embed.timestep_embedder.linear_2"},
    {"vector_in.in_layer", "time_text_embed.text_embedder.linear_1"},
    {"vector_in.out_layer", "time_text_embed.text_embedder.linear_2"},
    {"guidance_in.in_layer", "time_text_embed.guidance_embedder.linear_1"},
    {"guidance_in.out_layer", "time_text_embed.guidance_embedder.linear_2"},
    {"final_layer.linear", "proj_out"},
    // The original has [shift, scale], diffusers [scale, shift].
    {"final_layer.adaLN_modulation.1", "norm_out.linear", Fused::kSwappedHalves},
};

// Without ".processor"; of the single blocks' names split_lora_key has taken "_lora".
constexpr Pattern kXlabsNames[] = {
    {"double_blocks.#.qkv_lora1", "transformer_blocks.#.attn.", Fused::kQkv},
    {"double_blocks.#.qkv_lora2", "transformer_blocks.#.attn.", Fused::kAddedQkv},
    {"double_blocks.#.proj_lora1", "transformer_blocks.#.attn.to_out.0"},
    {"double_blocks.#.proj_lora2", "transformer_blocks.#.attn.to_add_out"},
    {"single_blocks.#.qkv", "single_transformer_blocks.#.attn.", Fused::kQkv},
    {"single_blocks.#.proj", "single_transformer_blocks.#.proj_out"},
};

constexpr Pattern kDiffusersNames[] = {
    {"transformer_blocks.#.attn.to_q", ""},
    {"transformer_blocks.#.attn.to_k", ""},
    {"transformer_blocks.#.attn.to_v", ""},
    {"transformer_blocks.#.attn.add_q_proj", ""},
    {"transformer_blocks.#.attn.add_k_proj", ""},
    {"transformer_blocks.#.attn.add_v_proj", ""},
    {"transformer_blocks.#.attn.to_out.0", ""},
    {"transformer_blocks.#.attn.to_out", "transformer_blocks.#.attn.to_out.0"},
    {"transformer_blocks.#.attn.to_add_out", ""},
    {"transformer_blocks.#.attn.to_qkv", "transformer_blocks.#.attn.", Fused::kQkv},
    {"transformer_blocks.#.attn.to_added_qkv", "transformer_blocks.#.attn.", Fused::kAddedQkv},
    {"transformer_blocks.#.attn.norm_q", ""},
    {"transformer_blocks.#.attn.norm_k", ""},
    {"transformer_blocks.#.attn.norm_added_q", ""},
    {"transformer_blocks.#.attn.norm_added_k", ""},
    {"transformer_blocks.#.ff.net.0.proj", ""},
    {"transformer_blocks.#.ff.net.2", ""},
    {"transformer_blocks.#.ff_context.net.0.proj", ""},
    {"transformer_blocks.#.ff_context.net.2", ""},
    {"transformer_blocks.#.norm1.linear", ""},
    {"transformer_blocks.#.norm1_context.linear", ""},
    {"single_transformer_blocks.#.attn.to_q", ""},
    {"single_transformer_blocks.#.attn.to_k", ""},
    {"single_transformer_blocks.#.attn.to_v", ""},
    {"single_transformer_blocks.#.attn.to_qkv", "single_transformer_blocks.#.attn.", Fused::kQkv},
    {"single_transformer_blocks.#.attn.norm_q", ""},
    {"single_transformer_blocks.#.attn.norm_k", ""},
    {"single_transformer_blocks.#.norm.linear", ""},
    {"single_transformer_blocks.#.proj_mlp", ""},
    {"single_transformer_blocks.#.proj_out", ""},
    {"x_embedder", ""},
    {"context_embedder", ""},
    {"time_text_embed.timestep_embedder.linear_1", ""},
    {"time_text_embed.timestep_embedder.linear_2", ""},
    {"time_text_embed.text_embedder.linear_1", ""},
    {"time_text_embed.text_embedder.linear_2", ""},
    {"time_text_embed.guidance_embedder.linear_1", ""},
    {"time_text_embed.guidance_embedder.linear_2", ""},
    {"norm_out.linear", ""},
    {"proj_out", ""},
};

// After "text_model.", which newer files leave out. "to_q" and the like are diffusers' before peft.
constexpr Pattern kClipNames[] = {
    {"encoder.layers.#.self_attn.q_proj", ""},
    {"encoder.layers.#.self_attn.k_proj", ""},
    {"encoder.layers.#.self_attn.v_proj", ""},
    {"encoder.layers.#.self_attn.out_proj", ""},
    {"encoder.layers.#.self_attn.to_q", "encoder.layers.#.self_attn.q_proj"},
    {"encoder.layers.#.self_attn.to_k", "encoder.layers.#.self_attn.k_proj"},
    {"encoder.layers.#.self_attn.to_v", "encoder.layers.#.self_attn.v_proj"},
    {"encoder.layers.#.self_attn.to_out", "encoder.layers.#.self_attn.out_proj"},
    {"encoder.layers.#.mlp.fc1", ""},
    {"encoder.layers.#.mlp.fc2", ""},
    {"encoder.layers.#.layer_norm1", ""},
    {"encoder.layers.#.layer_norm2", ""},
    {"final_layer_norm", ""},
};

constexpr Pattern kT5Names[] = {
    {"encoder.block.#.layer.0.SelfAttention.q", ""},
    {"encoder.block.#.layer.0.SelfAttention.k", ""},
    {"encoder.block.#.layer.0.SelfAttention.v", ""},
    {"encoder.block.#.layer.0.SelfAttention.o", ""},
    {"encoder.block.#.layer.0.layer_norm", ""},
    {"encoder.block.#.layer.1.DenseReluDense.wi_0", ""},
    {"encoder.block.#.layer.1.DenseReluDense.wi_1", ""},
    {"encoder.block.#.layer.1.DenseReluDense.wo", ""},
    {"encoder.block.#.layer.1.layer_norm", ""},
    {"encoder.final_layer_norm", ""},
};

struct Prefix {
  std::string_view text;
  LoraComponent component;
  // Nothing: the name after the prefix tells (diffusers', BFL's or XLabs').
  std::optional<LoraNaming> naming;
};

constexpr Prefix kPrefixes[] = {
    {"lora_unet_", LoraComponent::kTransformer, LoraNaming::kKohya},
    {"lora_transformer_", LoraComponent::kTransformer, LoraNaming::kOneTrainer},
    {"lycoris_", LoraComponent::kTransformer, LoraNaming::kLycoris},
    {"lora_te1_", LoraComponent::kTextEncoder, LoraNaming::kKohya},
    {"lora_te_", LoraComponent::kTextEncoder, LoraNaming::kKohya},
    // T5 is the second encoder to OneTrainer, the third to kohya, who counts SD3's.
    {"lora_te2_", LoraComponent::kTextEncoder2, LoraNaming::kKohya},
    {"lora_te3_", LoraComponent::kTextEncoder2, LoraNaming::kKohya},
    {"text_encoders.clip_l.transformer.", LoraComponent::kTextEncoder, LoraNaming::kComfyui},
    {"text_encoders.t5xxl.transformer.", LoraComponent::kTextEncoder2, LoraNaming::kComfyui},
    {"text_encoder.", LoraComponent::kTextEncoder, LoraNaming::kDiffusers},
    {"text_encoder_2.", LoraComponent::kTextEncoder2, LoraNaming::kDiffusers},
    {"model.diffusion_model.", LoraComponent::kTransformer, std::nullopt},
    {"diffusion_model.", LoraComponent::kTransformer, std::nullopt},
    {"transformer.", LoraComponent::kTransformer, std::nullopt},
    {"", LoraComponent::kTransformer, std::nullopt},
};

constexpr std::size_t kMaxBlockDigits = 4;

bool take(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

// The number in place of '#' ("" if the pattern has none), or nullopt if `text` does not match.
std::optional<std::string_view> match(std::string_view pattern, std::string_view text) {
  std::string_view number;
  std::size_t at = 0;
  for (const char expected : pattern) {
    if (expected == '#') {
      const std::size_t begin = at;
      while (at < text.size() && text[at] >= '0' && text[at] <= '9') ++at;
      number = text.substr(begin, at - begin);
      if (number.empty() || number.size() > kMaxBlockDigits) return std::nullopt;
      if (number.size() > 1 && number[0] == '0') return std::nullopt;
      continue;
    }
    if (at == text.size()) return std::nullopt;
    const bool same = expected == '.' ? text[at] == '.' || text[at] == '_' : text[at] == expected;
    if (!same) return std::nullopt;
    ++at;
  }
  if (at != text.size()) return std::nullopt;
  return number;
}

std::vector<LoraPlace> places_of(LoraComponent component, const Pattern& pattern,
                                 std::string_view number) {
  std::string layer(pattern.layer.empty() ? pattern.name : pattern.layer);
  if (const auto at = layer.find('#'); at != std::string::npos) layer.replace(at, 1, number);
  const auto part = [&](const char* name, int parts, std::int64_t begin, std::int64_t end) {
    return LoraPlace{component, layer + name, parts, {{begin, end}}};
  };
  switch (pattern.fused) {
    case Fused::kNo:
      break;
    case Fused::kQkv:
      return {part("to_q", 3, 0, 1), part("to_k", 3, 1, 2), part("to_v", 3, 2, 3)};
    case Fused::kAddedQkv:
      return {part("add_q_proj", 3, 0, 1), part("add_k_proj", 3, 1, 2),
              part("add_v_proj", 3, 2, 3)};
    case Fused::kQkvMlp:  // the MLP is four times as wide as q
      return {part("attn.to_q", 7, 0, 1), part("attn.to_k", 7, 1, 2), part("attn.to_v", 7, 2, 3),
              part("proj_mlp", 7, 3, 7)};
    case Fused::kSwappedHalves:
      return {LoraPlace{component, layer, 2, {{1, 2}, {0, 1}}}};
  }
  return {LoraPlace{component, layer, 1, {}}};
}

template <std::size_t kSize>
std::vector<LoraPlace> find_in(const Pattern (&patterns)[kSize], LoraComponent component,
                               std::string_view name) {
  for (const Pattern& pattern : patterns) {
    if (const auto number = match(pattern.name, name)) {
      return places_of(component, pattern, *number);
    }
  }
  return {};
}

std::optional<LoraPlaces> find_in_component(const Prefix& prefix, std::string_view name) {
  const LoraComponent component = prefix.component;
  std::vector<LoraPlace> places;
  LoraNaming naming = LoraNaming::kDiffusers;
  if (component == LoraComponent::kTextEncoder) {
    if (!take(name, "text_model.")) take(name, "text_model_");
    places = find_in(kClipNames, component, name);
  } else if (component == LoraComponent::kTextEncoder2) {
    places = find_in(kT5Names, component, name);
  } else {
    // Attention processors held the layers before peft did; XLabs' and diffusers' files show it.
    std::string without_processor(name);
    constexpr std::string_view kProcessor = ".processor.";
    if (const auto at = without_processor.find(kProcessor); at != std::string::npos) {
      without_processor.replace(at, kProcessor.size(), ".");
    }
    places = find_in(kDiffusersNames, component, without_processor);
    if (places.empty()) {
      naming = LoraNaming::kBfl;
      places = find_in(kBflNames, component, name);
    }
    if (places.empty()) {
      naming = LoraNaming::kXlabs;
      places = find_in(kXlabsNames, component, without_processor);
    }
  }
  if (places.empty()) return std::nullopt;
  return LoraPlaces{prefix.naming.value_or(naming), std::move(places)};
}

}  // namespace

std::optional<LoraKey> split_lora_key(std::string_view key) {
  if (auto peft = split_peft_key(key)) return peft;
  for (const Ending& ending : kEndings) {
    if (key.size() > ending.text.size() && key.ends_with(ending.text)) {
      return LoraKey{key.substr(0, key.size() - ending.text.size()), ending.role};
    }
  }
  constexpr std::string_view kAlpha = ".alpha";
  if (key.size() > kAlpha.size() && key.ends_with(kAlpha)) {
    const std::string_view stem = key.substr(0, key.size() - kAlpha.size());
    // Some name it after the tensor: "to_q.lora_A.weight.alpha".
    const auto inner = stem.ends_with(".weight") ? split_lora_key(stem) : std::nullopt;
    return LoraKey{inner && inner->role == LoraRole::kDown ? inner->stem : stem, LoraRole::kAlpha};
  }
  return split_norm_key(key);
}

std::optional<LoraPlaces> place_lora_stem(std::string_view stem) {
  // peft's wrapper, with or without a component in front.
  take(stem, "base_model.model.");
  for (const Prefix& prefix : kPrefixes) {
    std::string_view name = stem;
    if (!take(name, prefix.text)) continue;
    if (prefix.text.ends_with('.')) take(name, "base_model.model.");
    if (auto places = find_in_component(prefix, name)) return places;
  }
  return std::nullopt;
}

std::string to_string(LoraNaming naming) {
  switch (naming) {
    case LoraNaming::kDiffusers:
      return "diffusers";
    case LoraNaming::kKohya:
      return "kohya";
    case LoraNaming::kBfl:
      return "BFL";
    case LoraNaming::kXlabs:
      return "XLabs";
    case LoraNaming::kLycoris:
      return "LyCORIS";
    case LoraNaming::kOneTrainer:
      return "OneTrainer";
    case LoraNaming::kComfyui:
      return "ComfyUI";
  }
  return "";
}

}  // namespace steadyflux
