// The parts of a model that a single file does not hold.
#pragma once

#include <filesystem>

namespace steadyflux {

// Each a file or a component folder of the diffusers layout; `tokenizers` is a folder that holds
// tokenizer/ and tokenizer_2/. Empty: in the model itself, or looked for.
struct ModelParts {
  std::filesystem::path vae;
  std::filesystem::path clip_l;
  std::filesystem::path t5;
  std::filesystem::path tokenizers;
  // FLUX.1-Redux: a folder of the diffusers layout, or a file with what stands behind the image
  // encoder, which then is named apart. Empty: none is used.
  std::filesystem::path redux = {};
  std::filesystem::path image_encoder = {};
  // False: prompts come encoded, and a single file without encoders and tokenizers will do.
  bool encoders_needed = true;
  // True: prompts are encoded and no picture is made. No VAE is looked for, and of the transformer
  // the configuration is enough.
  bool encode_only = false;

  bool operator==(const ModelParts&) const = default;
};

}  // namespace steadyflux
