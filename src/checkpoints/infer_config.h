// The configuration of a component from the names and shapes of its tensors, for files that come
// without config.json. What tensors cannot tell is FLUX.1's:
// - transformer: RoPE axes are 1/8, 7/16 and 7/16 of a head, patch size 1;
// - T5: max distance 128, eps 1e-6, tanh-GELU;
// - CLIP: heads of 64, quick GELU, eps 1e-5, the legacy rule for the end of the text;
// - VAE: scaling 0.3611, shift 0.1159; 32 norm groups or, where some width is no multiple of 32,
// the
//   largest number below that divides all of them.
// A file whose model differs in these (as small test models do) needs its config.json.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "config/model_config.h"

namespace steadyflux {

// Tensors' shapes, of values (not of packed bytes), by name.
using TensorShapes = std::map<std::string, std::vector<std::int64_t>>;

// All of them take shapes by the models' names, and throw kBadInput naming `where`, the first
// tensor that is missing (blocks are counted, and none may be left out) or whose shape makes no
// sense, and what to do. Whether every tensor is there, in the shape that the config asks for, is
// left to loading, and to expected_shapes.h.
FluxTransformerConfig infer_flux_transformer_config(const TensorShapes& shapes,
                                                    const std::string& where);
ClipTextConfig infer_clip_text_config(const TensorShapes& shapes, const std::string& where);
T5Config infer_t5_config(const TensorShapes& shapes, const std::string& where);
AutoencoderKlConfig infer_autoencoder_kl_config(const TensorShapes& shapes,
                                                const std::string& where);
// Of SigLIP the number of heads is not told by its tensors: 16 of so400m, else heads of 64 values;
// nor are pixels beyond the last whole patch: a picture of so400m's 27 x 27 patches of 14 pixels
// has 384.
SiglipVisionConfig infer_siglip_vision_config(const TensorShapes& shapes, const std::string& where);
ReduxImageEncoderConfig infer_redux_image_encoder_config(const TensorShapes& shapes,
                                                         const std::string& where);

// The scheduler of the variant: schnell's (static shift 1) without guidance embedding, else dev's.
FlowMatchEulerConfig infer_flow_match_euler_config(const FluxTransformerConfig& transformer);

}  // namespace steadyflux
