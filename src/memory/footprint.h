// Bytes of weights and activations, from the configuration and the request alone. The weights
// mirror what the models' units() say (tests compare them), the activations what their forward()
// allocates at its peak.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "config/model_config.h"
#include "memory/plan.h"

namespace steadyflux {

// Bytes of one value: 2 for bf16 and fp16, 4 for fp32, 8 for fp64.
std::int64_t element_size(const std::string& dtype);

struct WeightsFootprint {
  std::string component;
  std::vector<UnitFootprint> units;
  std::int64_t fixed_bytes = 0;  // in place all the time
  std::int64_t fixed_file_bytes = 0;
  std::int64_t table_file_bytes = 0;  // of tables that stay in the file
  // Of the largest matrix that is packed, unpacked: as long as it is computed with, it is there
  // too.
  std::int64_t unpacked_bytes = 0;
};

// `dtype` is computed with.
WeightsFootprint clip_weights(const ClipTextConfig& config, const std::string& dtype,
                              const StoredWeights& stored);
WeightsFootprint t5_weights(const T5Config& config, const std::string& dtype,
                            const StoredWeights& stored);
WeightsFootprint image_encoder_weights(const SiglipVisionConfig& config, const std::string& dtype,
                                       const StoredWeights& stored);
WeightsFootprint image_embedder_weights(const ReduxImageEncoderConfig& config,
                                        const std::string& dtype, const StoredWeights& stored);
WeightsFootprint transformer_weights(const FluxTransformerConfig& config, const std::string& dtype,
                                     const StoredWeights& stored);
// Of the transformer's units, those of its first block.
std::size_t first_block_units(const FluxTransformerConfig& config);
WeightsFootprint modulation_weights(const FluxTransformerConfig& config, const std::string& dtype,
                                    const StoredWeights& stored);

// Tensors of the forward pass at its peak, where it is computed. `group`: prompts, or
// pictures (one with a negative prompt counts twice), that go through it together. `workers`:
// threads of the CPU, each with room of its own for attention; 0 on a device. `image_len`: with the
// tokens of a reference. Embeddings that go in are not counted.
std::int64_t clip_activations(const ClipTextConfig& config, const std::string& dtype,
                              std::int64_t group);
// one_pass: norms and gates by row kernels, on the CPU, for want of which operators have copies.
std::int64_t t5_activations(const T5Config& config, const std::string& dtype,
                            std::int64_t max_sequence_length, int workers, std::int64_t group,
                            bool one_pass);
// images: pictures that go through it together.
std::int64_t image_encoder_activations(const SiglipVisionConfig& config, const std::string& dtype,
                                       std::int64_t images);
std::int64_t image_embedder_activations(const ReduxConfig& config, const std::string& dtype,
                                        std::int64_t images);
// What a linear layer takes beside x [rows, in] and its result [rows, out].
using ProductBytes =
    std::function<std::int64_t(std::int64_t rows, std::int64_t in, std::int64_t out)>;
// Of layers that multiply as Workload::compute says.
ProductBytes product_bytes(const std::string& compute, const std::string& dtype, int workers);
std::int64_t transformer_activations(const FluxTransformerConfig& config, const std::string& dtype,
                                     std::int64_t text_len, std::int64_t image_len, int workers,
                                     std::int64_t group, const ProductBytes& of_product);
// Of position embeddings: cosines and sines of every token.
std::int64_t rotary_bytes(const FluxTransformerConfig& config, std::int64_t seq_len);
// rows: computed together, of all tables.
std::int64_t modulation_activations(const FluxTransformerConfig& config, const std::string& dtype,
                                    std::int64_t rows);
// What the passes take beside that on a CPU which multiplies 16-bit numbers in fp32; in int8
// (`compute`) only the transformer's first blocks do.
std::int64_t clip_widened_bytes(const ClipTextConfig& config);
std::int64_t t5_widened_bytes(const T5Config& config, std::int64_t max_sequence_length);
std::int64_t image_encoder_widened_bytes(const SiglipVisionConfig& config);
std::int64_t image_embedder_widened_bytes(const ReduxConfig& config);
std::int64_t transformer_widened_bytes(const FluxTransformerConfig& config,
                                       const std::string& compute, std::int64_t text_len,
                                       std::int64_t image_len);
std::int64_t modulation_widened_bytes(const FluxTransformerConfig& config, std::int64_t rows);

// Of the table that modulation leaves behind, one row.
std::int64_t modulation_row_bytes(const FluxTransformerConfig& config, const std::string& dtype);

}  // namespace steadyflux
