// The names tensors have in the files people keep, and the names our models ask for (those of
// diffusers and transformers). Pure text: no shapes are needed, because every rule speaks of shares
// of a tensor's rows. One stored tensor may hold several of ours (BFL's fused `img_attn.qkv` and
// `linear1`), and one of ours may be made of stretches in another order (`norm_out.linear` is
// scale, shift; BFL's `final_layer.adaLN_modulation.1` is shift, scale).
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace steadyflux {

// The parts of a pipeline, named after their folders.
enum class Component {
  kTransformer,
  kTextEncoder,
  kTextEncoder2,
  kVae,
  kImageEncoder,   // of FLUX.1-Redux: SigLIP
  kImageEmbedder,  // likewise: what stands behind it
};
// "transformer", "text_encoder", "text_encoder_2", "vae", "image_encoder", "image_embedder"
std::string to_string(Component component);

// How the tensors of a component are called.
enum class Naming {
  kDiffusers,  // diffusers' and transformers' own names
  kBfl,        // Black Forest Labs' and ComfyUI's: double_blocks.0..., decoder.up.3.block.0...
  kLlamaCpp,   // T5 in GGUF files: enc.blk.0.attn_q.weight
};

// Rows [begin, end) of `of` equal shares of a stored tensor are rows of a model's tensor: its
// `position`-th of `stretches` equal stretches.
struct RowPlacement {
  std::string name;  // the model's tensor
  int begin = 0;
  int end = 1;
  int of = 1;
  int position = 0;
  int stretches = 1;

  bool operator==(const RowPlacement&) const = default;
};

// Where the rows of a stored tensor of FLUX.1's transformer go, in the order of the rows; empty: no
// tensor of it. Takes BFL's names (also with `norm.query_norm.weight`, as some programs write
// `.scale`); diffusers' names stand for themselves.
std::vector<RowPlacement> transformer_placements(const std::string& stored);

// CLIP's text model in transformers' names, with or without `text_model.`; ours are without.
std::vector<RowPlacement> text_encoder_placements(const std::string& stored);

// T5's encoder in transformers' or llama.cpp's names. `encoder.embed_tokens.weight` is
// `shared.weight`: a file may have both, with the same values.
std::vector<RowPlacement> text_encoder_2_placements(const std::string& stored);

// The VAE in diffusers' or BFL's names. BFL counts the decoder's up blocks from the picture's end,
// so their number (4 for FLUX.1) is needed. BFL's `mid.attn_1.{q,k,v,proj_out}.weight` are 1 x 1
// convolutions [c, c, 1, 1], and Linear [c, c] in diffusers: the shape has to be cut.
std::vector<RowPlacement> vae_placements(const std::string& stored, int up_blocks);

// SigLIP's image encoder in transformers' names, with or without `vision_model.`; ours are without.
std::vector<RowPlacement> image_encoder_placements(const std::string& stored);

// redux_up and redux_down, as BFL and diffusers both call them.
std::vector<RowPlacement> image_embedder_placements(const std::string& stored);

// How many up blocks a decoder has at least that has this BFL name: 4 for
// "decoder.up.3.upsample.conv.weight", 0 for other names. The largest over a file is
// vae_placements' `up_blocks`.
int least_up_blocks(const std::string& stored);

// One of those above. `up_blocks` matters to the VAE only.
std::vector<RowPlacement> placements(Component component, const std::string& stored, int up_blocks);

// The naming that a stored name belongs to; of names that are the same in both (`encoder.conv_in`),
// kDiffusers. Only for names whose placements() are not empty.
Naming naming_of(Component component, const std::string& stored);

// Rows [begin, end) of `of` equal shares of the model's tensor `name`.
struct RowSource {
  std::string name;
  int begin = 0;
  int end = 1;
  int of = 1;

  bool operator==(const RowSource&) const = default;
};

// For writing: the BFL tensor that holds a diffusers tensor's rows ("" if there is none), and the
// rows that make up a BFL tensor, in order.
std::string transformer_bfl_name(const std::string& diffusers);
std::vector<RowSource> transformer_sources(const std::string& bfl);

// Names that files of a component hold beside its weights, and that loading passes over: buffers
// (`position_ids`), a full CLIP's or SigLIP's other half, a full T5's decoder.
bool is_ignored(Component component, const std::string& stored);

// What may stand before the names of a component, longest first, "" last; in files of one component
// and in all-in-one files.
std::span<const std::string_view> known_prefixes(Component component);

// `stored` without `prefix`, if it begins with that.
std::optional<std::string> strip_prefix(std::string_view stored, std::string_view prefix);

// What belongs to a quantised weight lies beside it under longer or other names. "a.scale_weight"
// -> {"a.weight", "scale_weight"}; "a.weight.absmax" -> {"a.weight", "absmax"}; a plain tensor's
// name -> {name, ""}. The marker "scaled_fp8", which belongs to a whole component, has an empty
// base.
struct SplitName {
  std::string base;
  std::string suffix;

  bool operator==(const SplitName&) const = default;
};
SplitName split_companion(const std::string& name);

}  // namespace steadyflux
