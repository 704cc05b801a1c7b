// A guess at what a file without one usable key is, so that the error message can say it.
#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "base/utf8.h"
#include "lora/lora_keys.h"

namespace steadyflux {
namespace {

struct Sign {
  std::string_view part;  // of a key, with '_' for '.'
  std::string_view model;
};

// The first sign that any key shows decides.
constexpr Sign kModelSigns[] = {
    {"double_stream_modulation", "FLUX.2"},
    {"to_qkv_mlp_proj", "FLUX.2"},
    {"joint_blocks", "Stable Diffusion 3"},
    {"lora_te2_text_model", "SDXL"},
    {"text_encoder_2_text_model", "SDXL"},
    {"lora_unet_input_blocks", "SDXL"},
    {"lora_unet_output_blocks", "SDXL"},
    {"down_blocks_", "Stable Diffusion 1, 2 or XL"},
    {"up_blocks_", "Stable Diffusion 1, 2 or XL"},
    {"mid_block_", "Stable Diffusion 1, 2 or XL"},
    {"noise_refiner", "Z-Image or Lumina"},
    {"layers_0_attention", "Z-Image or Lumina"},
    {"cross_attn", "Wan or another video model"},
    {"_attn1_to_", "a video model"},
    {"img_mod_1", "Qwen-Image"},
    {"double_blocks", "a model with blocks like FLUX.1's"},
    {"transformer_blocks", "a model with blocks like FLUX.1's"},
};

constexpr std::string_view kOtherKinds[] = {"oft_blocks",  "oft_diag",  "oft_r", "boft_",
                                            "vera_lambda", "a1_weight", "ia3_l"};

}  // namespace

std::string guess_other_model(const std::vector<std::string>& keys) {
  if (keys.empty()) return "an empty file";
  std::vector<std::string> plain = keys;
  for (std::string& key : plain) std::replace(key.begin(), key.end(), '.', '_');
  const auto any = [&](std::string_view part) {
    return std::any_of(plain.begin(), plain.end(),
                       [&](const std::string& key) { return key.find(part) != std::string::npos; });
  };
  const std::string example = fmt::format("'{}'", printable(keys.front()));
  if (std::any_of(std::begin(kOtherKinds), std::end(kOtherKinds), any)) {
    return fmt::format("an adapter of a kind other than LoRA, LoHa and LoKr (its first key is {})",
                       example);
  }
  const bool is_lora = std::any_of(keys.begin(), keys.end(), [](const std::string& key) {
    return split_lora_key(key).has_value();
  });
  if (!is_lora) {
    return fmt::format("no LoRA at all but weights of a model ({} tensors, the first is {})",
                       keys.size(), example);
  }
  for (const Sign& sign : kModelSigns) {
    if (any(sign.part)) {
      return fmt::format("a LoRA for {} (its first key is {})", sign.model, example);
    }
  }
  return fmt::format("a LoRA for another model (its first key is {})", example);
}

}  // namespace steadyflux
