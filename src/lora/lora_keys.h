// The names of tensors in LoRA files. A key is a stem, which names a layer in one of many
// spellings, and an ending, which says what the tensor is to that layer. Both are looked up in
// tables; nothing here touches a tensor.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lora/lora_file.h"

namespace steadyflux {

enum class LoraRole {
  kDown,  // [r, in]
  kUp,    // [out, r]
  kMid,   // of convolutions only
  kUpBias,
  kAlpha,
  kDoraScale,
  kHadaW1A,
  kHadaW1B,
  kHadaW2A,
  kHadaW2B,
  kHadaTucker,  // of convolutions only
  kLokrW1,
  kLokrW1A,
  kLokrW1B,
  kLokrW2,
  kLokrW2A,
  kLokrW2B,
  kLokrTucker,  // of convolutions only
  kDiff,
  kDiffBias,
  kWhole,  // the weight of a norm itself
};

struct LoraKey {
  std::string_view stem;  // inside the key
  LoraRole role;
};

// nullopt if the key has no ending that LoRA files use.
std::optional<LoraKey> split_lora_key(std::string_view key);

// Whose spelling a stem is.
enum class LoraNaming { kDiffusers, kKohya, kBfl, kXlabs, kLycoris, kOneTrainer, kComfyui };
std::string to_string(LoraNaming naming);

// A layer that a stem names. Of a fused matrix, cut into `parts` equal parts, the layer takes those
// in `shares`, one range after the other; no shares: the whole matrix.
struct LoraPlace {
  LoraComponent component;
  std::string layer;
  int parts = 1;
  std::vector<RowRange> shares;
};

struct LoraPlaces {
  LoraNaming naming;
  std::vector<LoraPlace> places;  // at least one
};

// nullopt if no layer of FLUX.1 or its text encoders is called that.
std::optional<LoraPlaces> place_lora_stem(std::string_view stem);

// What a file without a single FLUX.1 key seems to be, for an error message: "a LoRA for SDXL".
std::string guess_other_model(const std::vector<std::string>& keys);

}  // namespace steadyflux
