// LoRA files for FLUX.1 as people have them: diffusers/peft, kohya, BFL and ai-toolkit names,
// XLabs, LyCORIS (LoHa, LoKr, full differences, DoRA). Whatever the file calls its layers,
// read_lora tells which Linear of a diffusers pipeline each of its tensors changes, and how. No
// tensor is read or multiplied here: terms point into the mapped file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "weights/tensor_view.h"

namespace steadyflux {

enum class LoraComponent { kTransformer, kTextEncoder, kTextEncoder2 };
// "transformer", "text_encoder", "text_encoder_2"
std::string to_string(LoraComponent component);

enum class LoraKind { kLora, kLoha, kLokr, kFull, kWhole };
// "LoRA", "LoHa", "LoKr", "full", "whole"
std::string to_string(LoraKind kind);

// The matrix `left`, or the product left @ right: left [m, r], right [r, n]. `left` alone may be a
// vector, which has 0 columns.
struct LoraFactor {
  TensorView left;
  std::optional<TensorView> right;

  std::int64_t rows() const { return left.shape[0]; }
  std::int64_t columns() const {
    if (right) return right->shape[1];
    return left.shape.size() > 1 ? left.shape[1] : 0;
  }
};

// Rows [begin, end) of a matrix.
struct RowRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;

  bool operator==(const RowRange&) const = default;
};

// One change of a layer's weight W [out, in]. With `strength` the number the user gave,
//   W += strength * scale * select(delta),   delta by kind:
//     kLora  first                    (first = up @ down)
//     kLoha  first * second           (element by element)
//     kLokr  kron(first, second)      (PyTorch's and NumPy's)
//     kFull  first                    (no `right`; [out] for the weight of a norm)
// or, whatever the strength, W = first: kWhole, which Control LoRAs have for norms ([out]).
// select(delta) is delta, or the rows listed in `rows`, one range after the other: formats that
// fuse layers (qkv) hold one delta for all of them, and some order the rows differently. Every
// tensor is F32, F16 or BF16 and holds finite shapes that multiply; values are unchecked.
struct LoraTerm {
  LoraKind kind = LoraKind::kLora;
  std::optional<LoraFactor> first;   // absent only if the term changes nothing but the bias
  std::optional<LoraFactor> second;  // kLoha, kLokr
  double scale = 1.0;                // alpha / rank (alpha / sqrt(rank) for rsLoRA); finite
  std::int64_t rank = 0;             // 0 for kFull and for LoKr of two whole matrices
  std::vector<RowRange> rows;        // empty: all rows of delta

  // b += strength * scale * select(bias); [rows of delta], the same `rows` as above.
  std::optional<TensorView> bias;

  // DoRA: after the addition above each row of W (each column unless dora_on_output) is scaled to
  // the length that dora_scale has for it: [rows of delta] (select as above), else [in].
  //   W' = W + strength * scale * select(delta);  W = dora_scale / norm(W') * W'
  // as in peft. (ComfyUI computes that with a strength of 1 and goes `strength` of the way to it.)
  std::optional<TensorView> dora_scale;
  bool dora_on_output = true;

  std::string source;  // the stem of its keys in the file, for messages

  // Of delta, before `rows`. Columns are 0 for the weight of a norm; both 0 without `first`.
  std::int64_t delta_rows() const;
  std::int64_t delta_columns() const;
  // Of select(delta) or, without `first`, of select(bias).
  std::int64_t selected_rows() const;
};

// All that a file does to one layer. `layer` is the diffusers name of the module that holds
// ".weight", "transformer_blocks.3.attn.to_q"; in the CLIP encoder without "text_model." in front.
struct LoraTarget {
  LoraComponent component = LoraComponent::kTransformer;
  std::string layer;
  std::vector<LoraTerm> terms;  // at least one; they add up
};

struct LoraFile {
  std::filesystem::path path;
  std::string format;  // for people: "diffusers", "kohya", "BFL", "XLabs", or "diffusers + kohya"
  std::vector<LoraTarget> targets;     // by component, then by name
  std::vector<std::string> unmatched;  // keys that say nothing to us, sorted
};

// How many channels go into the transformer that this LoRA is for; 0: it does not say. A Control
// LoRA (depth, canny) makes 128 of 64.
std::int64_t input_channels(const LoraFile& lora);

// Throws Error{kBadInput} naming file and tensor: no safetensors file, no LoRA, a LoRA of another
// model, shapes that do not multiply, a tensor without its partner, one layer described twice.
LoraFile read_lora(const std::filesystem::path& path);

// A weight [out, in]; of a norm [out], in is 0.
struct LoraLayerShape {
  std::int64_t out = 0;
  std::int64_t in = 0;
  // A LoRA for the model that this one was made from changes so many columns, the first ones. 0:
  // all.
  std::int64_t narrow_in = 0;
};
using FindLoraLayer =
    std::function<std::optional<LoraLayerShape>(LoraComponent component, const std::string& layer)>;

// Compares the file with the model's layers. Targets that the model lacks move to `unmatched`
// (their keys' stems). Throws Error{kBadInput} for shapes that do not fit and if no target is left.
void check_targets(LoraFile& lora, const FindLoraLayer& find_layer);

}  // namespace steadyflux
