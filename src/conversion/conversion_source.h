// What a conversion starts from: the transformer or the T5 encoder of anything the program loads,
// under the models' names, with the part of its configuration that its tensors do not tell.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "checkpoints/infer_config.h"
#include "config/model_config.h"
#include "weights/component_weights.h"

namespace steadyflux {

struct ConversionSource {
  Component component = Component::kTransformer;  // or kTextEncoder2
  ComponentWeights weights;
  std::string description;            // "a FLUX.1-dev transformer in diffusers' names"
  T5Config t5;                        // of kTextEncoder2
  TensorShapes shapes;                // that its configuration asks for
  std::optional<std::string> config;  // JSON, where it differs from what infer_config.h takes

  // Types of packed values in it, "Q4_K" or "NF4"; empty: it is not quantised.
  std::vector<std::string> packed_types;
  std::vector<std::filesystem::path> files;  // that its tensors lie in
};

// `path`: a diffusers model folder, a component folder, or a file. Without `component` the
// transformer, where there is one. Throws Error{kBadInput}: says what else the file is.
ConversionSource open_conversion_source(const std::filesystem::path& path,
                                        std::optional<Component> component);

}  // namespace steadyflux
