#include "checkpoints/recognise.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/utf8.h"
#include "checkpoints/other_models.h"
#include "checkpoints/tensor_names.h"

namespace steadyflux {
namespace {

// What LoRAs and their relatives call the small matrices that they add to a weight.
constexpr std::string_view kLoraParts[] = {
    "lora_A.",     "lora_B.",           "lora_down.", "lora_up.", "lora.down.",  "lora.up.",
    "lora1.down.", "lora_linear_layer", ".hada_w1",   ".lokr_w",  ".oft_blocks", ".oft_diag"};

std::string describe_lora(const TensorNames& names) {
  const auto is_lora = std::any_of(std::begin(kLoraParts), std::end(kLoraParts),
                                   [&](std::string_view part) { return names.contains(part); });
  if (!is_lora) return {};
  for (const char* part : {"double_blocks", "single_blocks", "single_transformer_blocks"}) {
    if (names.contains(part)) return "a LoRA for FLUX.1 or a relative of it";
  }
  for (const char* part : {"input_blocks", "down_blocks", "lora_te_text_model", "resblocks"}) {
    if (names.contains(part)) return "a LoRA for Stable Diffusion";
  }
  return "a LoRA";
}

// Names that only the component has, by the naming in which it has them; all must begin a name.
struct Signs {
  Component component;
  Naming naming;
  std::array<const char*, 3> signs;
};
constexpr Signs kParts[] = {
    // A transformer may lack double or single blocks, but has these ends.
    {Component::kTransformer, Naming::kBfl, {"img_in.", "vector_in.", "double_blocks.0.img_attn."}},
    {Component::kTransformer, Naming::kBfl, {"img_in.", "vector_in.", "single_blocks.0.linear1."}},
    {Component::kTransformer,
     Naming::kDiffusers,
     {"x_embedder.", "time_text_embed.text_embedder.", "transformer_blocks.0.attn.add_q_proj."}},
    {Component::kTransformer,
     Naming::kDiffusers,
     {"x_embedder.", "time_text_embed.text_embedder.", "single_transformer_blocks.0.proj_mlp."}},
    {Component::kTextEncoder,
     Naming::kDiffusers,
     {"text_model.embeddings.token_embedding.", "text_model.encoder.layers.0.mlp.fc1."}},
    {Component::kTextEncoder,
     Naming::kDiffusers,
     {"embeddings.token_embedding.", "encoder.layers.0.mlp.fc1."}},
    {Component::kTextEncoder2,
     Naming::kDiffusers,
     {"encoder.block.0.layer.0.SelfAttention.q.", "encoder.block.0.layer.1.DenseReluDense.wi_0."}},
    {Component::kTextEncoder2, Naming::kLlamaCpp, {"enc.blk.0.attn_q.", "enc.blk.0.ffn_gate."}},
    {Component::kVae, Naming::kBfl, {"decoder.conv_in.weight", "decoder.up.0.block.0."}},
    {Component::kVae,
     Naming::kDiffusers,
     {"decoder.conv_in.weight", "decoder.up_blocks.0.resnets.0."}},
};

std::optional<FilePart> find_part(const TensorNames& names, Component component) {
  for (const auto known : known_prefixes(component)) {
    const std::string prefix(known);
    for (const Signs& part : kParts) {
      const bool found = part.component == component &&
                         std::all_of(part.signs.begin(), part.signs.end(), [&](const char* sign) {
                           return sign == nullptr || names.begins(prefix + sign);
                         });
      if (found) return FilePart{component, part.naming, prefix};
    }
  }
  return std::nullopt;
}

FluxVariant transformer_variant(const TensorNames& names, const FilePart& part) {
  const bool bfl = part.naming == Naming::kBfl;
  const auto in = names.columns(part.prefix + (bfl ? "img_in" : "x_embedder"));
  const auto out = names.side(part.prefix + (bfl ? "final_layer.linear.bias" : "proj_out.bias"), 0);
  const bool guidance =
      names.begins(part.prefix + (bfl ? "guidance_in." : "time_text_embed.guidance_embedder."));
  return variant_of_channels(in, out, guidance);
}

// The width is that of a norm, which nobody quantises.
std::string describe_t5(const TensorNames& names, const FilePart& part) {
  const auto width = names.side(
      part.prefix + (part.naming == Naming::kLlamaCpp ? "enc.output_norm.weight"
                                                      : "encoder.final_layer_norm.weight"),
      0);
  constexpr std::pair<std::int64_t, const char*> kSizes[] = {
      {512, "small"}, {768, "base"}, {1024, "large"}, {2048, "XL"}};
  for (const auto& [size, name] : kSizes) {
    if (size == width) {
      return fmt::format("a T5-{} text encoder of width {} (FLUX.1 has T5-XXL, width 4096)", name,
                         width);
    }
  }
  if (width == 4096) return "a T5-XXL text encoder";
  return width == 0 ? "a T5 text encoder" : fmt::format("a T5 text encoder of width {}", width);
}

std::string naming_text(Naming naming) {
  switch (naming) {
    case Naming::kBfl:
      return "Black Forest Labs' names";
    case Naming::kLlamaCpp:
      return "llama.cpp's names";
    case Naming::kDiffusers:
      break;
  }
  return "diffusers' names";
}

// One component alone.
void describe_part(const TensorNames& names, RecognisedFile& file) {
  const FilePart& part = file.parts.front();
  switch (part.component) {
    case Component::kTransformer:
      file.kind = FileKind::kTransformer;
      file.description =
          fmt::format("a {} transformer in {}", to_string(*file.variant), naming_text(part.naming));
      break;
    case Component::kTextEncoder:
      file.kind = FileKind::kTextEncoder;
      file.description = "a CLIP text encoder";
      break;
    case Component::kTextEncoder2:
      file.kind = FileKind::kTextEncoder2;
      file.description = describe_t5(names, part);
      break;
    case Component::kVae:
      file.kind = FileKind::kVae;
      file.description = fmt::format("a VAE in {}", naming_text(part.naming));
      break;
    case Component::kImageEncoder:
    case Component::kImageEmbedder:
      break;  // told by describe_other_model
  }
}

void describe_all_in_one(RecognisedFile& file) {
  file.kind = FileKind::kAllInOne;
  std::string list;
  for (const FilePart& part : file.parts) {
    if (!list.empty()) list += ", ";
    switch (part.component) {
      case Component::kTransformer:
        list += "transformer";
        break;
      case Component::kTextEncoder:
        list += "CLIP";
        break;
      case Component::kTextEncoder2:
        list += "T5";
        break;
      case Component::kVae:
        list += "VAE";
        break;
      case Component::kImageEncoder:
      case Component::kImageEmbedder:
        break;
    }
  }
  file.description = file.variant
                         ? fmt::format("a {} checkpoint with {}", to_string(*file.variant), list)
                         : fmt::format("a file with {}", list);
}

}  // namespace

bool RecognisedFile::has(Component component) const {
  return std::any_of(parts.begin(), parts.end(),
                     [&](const FilePart& part) { return part.component == component; });
}

RecognisedFile recognise_file(const Checkpoint& checkpoint) {
  const auto& metadata = checkpoint.metadata();
  const auto it = metadata.find("general.architecture");
  const bool told = checkpoint.is_gguf() && it != metadata.end() && it->is_string();
  return recognise(checkpoint.tensors(), told ? it->get<std::string>() : "");
}

RecognisedFile recognise(const std::map<std::string, TensorView>& tensors,
                         const std::string& architecture) {
  const TensorNames names(tensors);
  RecognisedFile file;
  if (tensors.empty()) {
    file.description = "a file without tensors";
    return file;
  }
  if (file.description = describe_lora(names); !file.description.empty()) {
    file.kind = FileKind::kLora;
    return file;
  }
  file.kind = FileKind::kOther;
  if (file.description = describe_other_model(names); !file.description.empty()) return file;
  const std::string other_vae = describe_other_vae(names);
  for (const auto component : {Component::kTransformer, Component::kTextEncoder,
                               Component::kTextEncoder2, Component::kVae}) {
    if (component == Component::kVae && !other_vae.empty()) continue;
    if (auto part = find_part(names, component)) file.parts.push_back(std::move(*part));
  }
  if (file.parts.empty()) {
    file.description = other_vae.empty() ? describe_architecture(architecture) : other_vae;
    if (!file.description.empty()) return file;
    file.kind = FileKind::kUnknown;
    file.description = fmt::format("an unknown kind of file ({} tensors, the first is '{}')",
                                   tensors.size(), printable(tensors.begin()->first));
    return file;
  }
  if (file.parts.front().component == Component::kTransformer) {
    file.variant = transformer_variant(names, file.parts.front());
  }
  if (file.parts.size() == 1) {
    describe_part(names, file);
  } else {
    describe_all_in_one(file);
  }
  return file;
}

}  // namespace steadyflux
