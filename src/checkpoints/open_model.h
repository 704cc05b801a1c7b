// From what the user names, a diffusers folder or a single file and perhaps the parts that go with
// it, to a whole model: where every part lies and how it is configured. Headers are read, no
// weights.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/file_identity.h"
#include "config/model_config.h"
#include "steadyflux/model_parts.h"

namespace steadyflux {

// `path`: a diffusers folder, a folder with one single-file checkpoint, or such a file (safetensors
// or GGUF, in diffusers', BFL's or ComfyUI's names, of the transformer alone or with other parts in
// it). What `parts` does not name, and the file does not hold, is looked for
//   1. in folders of the diffusers layout and in files beside the file, told by what they hold;
//   2. likewise in ComfyUI's folders vae, clip and text_encoders beside the file's folder;
//   3. in the snapshots of the local Hugging Face cache.
// Throws Error{kBadInput}: says what a file is that is no such checkpoint, which parts are missing
// and how to get them, and asks where several would do.
FluxModel open_model(const std::filesystem::path& path, const ModelParts& parts = {});

// The configuration of a component alone: config.json of a component folder, what `quantize` wrote
// into a file, else what the tensors tell. Throws Error{kBadInput}.
FluxTransformerConfig transformer_config(const std::filesystem::path& path);
ClipTextConfig text_encoder_config(const std::filesystem::path& path);
T5Config text_encoder_2_config(const std::filesystem::path& path);
AutoencoderKlConfig vae_config(const std::filesystem::path& path);

// FLUX.1-Redux: `path` is a folder of the diffusers layout, with image_encoder/ and
// image_embedder/, or a file with redux_up and redux_down alone, for which `image_encoder` names
// SigLIP (a file or a component folder; with a folder it may be empty). Throws Error{kBadInput}
// that says what is missing.
struct ReduxModel {
  std::filesystem::path image_encoder, image_embedder;
  ReduxConfig config;
};
ReduxModel open_redux(const std::filesystem::path& path,
                      const std::filesystem::path& image_encoder = {});
// The files that its tokens depend on, as model_files; model.redux has a value.
std::vector<NamedFile> redux_files(const FluxModel& model);

// All files that a picture may depend on, or an embedding (encoders and tokenizers), under names
// that do not depend on where the model lies, sorted.
std::vector<NamedFile> model_files(const FluxModel& model);
std::vector<NamedFile> encoder_files(const FluxModel& model);

}  // namespace steadyflux
