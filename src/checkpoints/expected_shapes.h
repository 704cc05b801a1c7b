// The tensors that a component has by its configuration, with their shapes: what its model's slots
// ask for (transformer/, text_encoder/), told without libtorch, for who reads weights and runs no
// model.
#pragma once

#include "checkpoints/infer_config.h"
#include "config/model_config.h"

namespace steadyflux {

// Under the models' names, as infer_config.h has them.
TensorShapes expected_shapes(const FluxTransformerConfig& config);
TensorShapes expected_shapes(const T5Config& config);

// Throws kBadInput, naming `where`, for the first of `found` that has another shape than expected.
// What is missing or is not expected is passed over.
void check_shapes(const TensorShapes& found, const TensorShapes& expected,
                  const std::string& where);

}  // namespace steadyflux
