#include "weights/key_names.h"

#include <algorithm>

#include "weights/key_names_parse.h"

namespace steadyflux {
namespace {

// Longest first. What ComfyUI, Forge and stable-diffusion.cpp write; "model." is what other
// trainers put around everything.
constexpr std::string_view kTransformerPrefixes[] = {"model.diffusion_model.", "diffusion_model.",
                                                     "transformer.", "model.", ""};
constexpr std::string_view kTextEncoderPrefixes[] = {"conditioner.embedders.0.transformer.",
                                                     "text_encoders.clip_l.transformer.",
                                                     "cond_stage_model.transformer.",
                                                     "text_encoders.clip_l.",
                                                     "clip_l.transformer.",
                                                     "text_encoder.",
                                                     "clip_l.",
                                                     ""};
constexpr std::string_view kTextEncoder2Prefixes[] = {"text_encoders.t5xxl.transformer.",
                                                      "text_encoders.t5xxl.",
                                                      "t5xxl.transformer.",
                                                      "text_encoder_2.",
                                                      "t5xxl.",
                                                      ""};
constexpr std::string_view kVaePrefixes[] = {"first_stage_model.", "vae.", ""};
constexpr std::string_view kNoPrefixes[] = {""};

// Behind "a.": the base is "a.weight".
constexpr std::string_view kBesideWeight[] = {
    // ComfyUI's scaled fp8, before and since late 2025
    "scale_weight", "scale_input", "weight_scale", "weight_scale_2", "input_scale", "comfy_quant",
    // bitsandbytes' int8
    "SCB", "weight_format",
    // optimum-quanto
    "output_scale"};
// Behind "a.weight.".
constexpr std::string_view kBehindWeight[] = {"absmax",
                                              "quant_map",
                                              "nested_absmax",
                                              "nested_quant_map",
                                              "quant_state.bitsandbytes__nf4",
                                              "quant_state.bitsandbytes__fp4",
                                              "_data",
                                              "_scale"};

bool ends_with_any(std::string_view name, std::span<const std::string_view> parts) {
  return std::any_of(parts.begin(), parts.end(),
                     [&](std::string_view part) { return name.ends_with(part); });
}

bool starts_with_any(std::string_view name, std::span<const std::string_view> parts) {
  return std::any_of(parts.begin(), parts.end(),
                     [&](std::string_view part) { return name.starts_with(part); });
}

// `name` ends in `middle` + `suffix` -> what lies before them.
bool cut(std::string_view name, std::string_view middle, std::string_view suffix,
         std::string_view& front) {
  if (!name.ends_with(suffix)) return false;
  name.remove_suffix(suffix.size());
  if (!name.ends_with(middle) || name.size() == middle.size()) return false;
  front = name.substr(0, name.size() - middle.size());
  return true;
}

}  // namespace

std::string to_string(Component component) {
  switch (component) {
    case Component::kTransformer:
      return "transformer";
    case Component::kTextEncoder:
      return "text_encoder";
    case Component::kTextEncoder2:
      return "text_encoder_2";
    case Component::kVae:
      return "vae";
    case Component::kImageEncoder:
      return "image_encoder";
    case Component::kImageEmbedder:
      return "image_embedder";
  }
  return "";
}

std::vector<RowPlacement> placements(Component component, const std::string& stored,
                                     int up_blocks) {
  switch (component) {
    case Component::kTransformer:
      return transformer_placements(stored);
    case Component::kTextEncoder:
      return text_encoder_placements(stored);
    case Component::kTextEncoder2:
      return text_encoder_2_placements(stored);
    case Component::kVae:
      return vae_placements(stored, up_blocks);
    case Component::kImageEncoder:
      return image_encoder_placements(stored);
    case Component::kImageEmbedder:
      return image_embedder_placements(stored);
  }
  return {};
}

Naming naming_of(Component component, const std::string& stored) {
  switch (component) {
    case Component::kTransformer:
      return transformer_bfl_name(stored).empty() ? Naming::kBfl : Naming::kDiffusers;
    case Component::kTextEncoder:
    case Component::kImageEncoder:
    case Component::kImageEmbedder:
      return Naming::kDiffusers;
    case Component::kTextEncoder2:
      return stored.starts_with("enc.") || stored.starts_with("token_embd.") ? Naming::kLlamaCpp
                                                                             : Naming::kDiffusers;
    case Component::kVae: {
      constexpr std::string_view kBflParts[] = {"encoder.down.",    "encoder.mid.",
                                                "encoder.norm_out", "decoder.up.",
                                                "decoder.mid.",     "decoder.norm_out"};
      return starts_with_any(stored, kBflParts) ? Naming::kBfl : Naming::kDiffusers;
    }
  }
  return Naming::kDiffusers;
}

bool is_ignored(Component component, const std::string& stored) {
  constexpr std::string_view kClipEnds[] = {"embeddings.position_ids", "logit_scale",
                                            "text_projection.weight", "text_projection"};
  constexpr std::string_view kClipParts[] = {"vision_model.", "visual_projection."};
  constexpr std::string_view kT5Parts[] = {"decoder.", "lm_head.", "dec.", "output.weight",
                                           "spiece_model"};
  constexpr std::string_view kSiglipParts[] = {"text_model.", "vision_model.head.", "head.",
                                               "logit_"};
  switch (component) {
    case Component::kTransformer:
    case Component::kImageEmbedder:
      return false;
    case Component::kImageEncoder:
      return stored.ends_with("embeddings.position_ids") || starts_with_any(stored, kSiglipParts);
    case Component::kTextEncoder:
      return ends_with_any(stored, kClipEnds) || starts_with_any(stored, kClipParts);
    case Component::kTextEncoder2:
      return starts_with_any(stored, kT5Parts) || stored == "logit_scale";
    case Component::kVae:
      return stored.starts_with("loss.") || stored.starts_with("model_ema.");
  }
  return false;
}

std::span<const std::string_view> known_prefixes(Component component) {
  switch (component) {
    case Component::kTransformer:
      return kTransformerPrefixes;
    case Component::kTextEncoder:
      return kTextEncoderPrefixes;
    case Component::kTextEncoder2:
      return kTextEncoder2Prefixes;
    case Component::kVae:
      return kVaePrefixes;
    case Component::kImageEncoder:
    case Component::kImageEmbedder:
      return kNoPrefixes;
  }
  return {};
}

std::optional<std::string> strip_prefix(std::string_view stored, std::string_view prefix) {
  if (!stored.starts_with(prefix)) return std::nullopt;
  return std::string(stored.substr(prefix.size()));
}

SplitName split_companion(const std::string& name) {
  if (name == "scaled_fp8" || name.ends_with(".scaled_fp8")) {
    return {.base = "", .suffix = "scaled_fp8"};
  }
  std::string_view front;
  for (const auto suffix : kBehindWeight) {
    if (cut(name, ".weight.", suffix, front)) {
      return {.base = key_names::join(front, ".weight"), .suffix = std::string(suffix)};
    }
  }
  for (const auto suffix : kBesideWeight) {
    if (cut(name, ".", suffix, front)) {
      return {.base = key_names::join(front, ".weight"), .suffix = std::string(suffix)};
    }
  }
  return {.base = name, .suffix = ""};
}

}  // namespace steadyflux
