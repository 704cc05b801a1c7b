// A FLUX.1 transformer and a T5 encoder small enough to convert in no time, with random values, in
// every naming that files have.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "quantization/half_float.h"
#include "weights/key_names.h"
#include "weights/safetensors_writer.h"

namespace steadyflux::testing {

struct TinyTensor {
  std::vector<std::int64_t> shape;
  std::vector<float> values;  // exact in bf16
};
using TinyTensors = std::map<std::string, TinyTensor>;

class TinyValues {
 public:
  TinyTensor make(std::vector<std::int64_t> shape) {
    TinyTensor tensor{std::move(shape), {}};
    std::int64_t count = 1;
    for (const auto side : tensor.shape) count *= side;
    std::normal_distribution<float> normal(0, 0.1F);
    for (std::int64_t i = 0; i < count; ++i) {
      const auto bits = static_cast<std::uint32_t>(float_to_bfloat16(normal(random_))) << 16;
      tensor.values.push_back(std::bit_cast<float>(bits));
    }
    return tensor;
  }

 private:
  std::mt19937 random_{7};
};

struct TinyFluxShape {
  std::int64_t heads = 4, head_dim = 64;
  std::int64_t double_blocks = 1, single_blocks = 2;
  std::int64_t context = 96;  // rows that are no multiple of 256
};

// In diffusers' names.
inline TinyTensors tiny_flux(const TinyFluxShape& shape = {}) {
  const auto dim = shape.heads * shape.head_dim;
  TinyValues values;
  TinyTensors tensors;
  const auto linear = [&](const std::string& name, std::int64_t out, std::int64_t in) {
    tensors[name + ".weight"] = values.make({out, in});
    tensors[name + ".bias"] = values.make({out});
  };
  linear("x_embedder", dim, 64);
  linear("context_embedder", dim, shape.context);
  for (const auto& [part, in] : {std::pair{"timestep", std::int64_t{256}}, {"text", 32}}) {
    const auto name = std::string("time_text_embed.") + part + "_embedder.linear_";
    linear(name + "1", dim, in);
    linear(name + "2", dim, dim);
  }
  for (std::int64_t i = 0; i < shape.double_blocks; ++i) {
    const auto block = "transformer_blocks." + std::to_string(i) + ".";
    for (const char* norm : {"norm1", "norm1_context"}) {
      linear(block + norm + ".linear", 6 * dim, dim);
    }
    for (const char* name : {"to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj",
                             "to_out.0", "to_add_out"}) {
      linear(block + "attn." + name, dim, dim);
    }
    for (const char* name : {"norm_q", "norm_k", "norm_added_q", "norm_added_k"}) {
      tensors[block + "attn." + name + ".weight"] = values.make({shape.head_dim});
    }
    for (const char* name : {"ff", "ff_context"}) {
      linear(block + name + ".net.0.proj", 4 * dim, dim);
      linear(block + name + ".net.2", dim, 4 * dim);
    }
  }
  for (std::int64_t i = 0; i < shape.single_blocks; ++i) {
    const auto block = "single_transformer_blocks." + std::to_string(i) + ".";
    linear(block + "norm.linear", 3 * dim, dim);
    for (const char* name : {"to_q", "to_k", "to_v"}) linear(block + "attn." + name, dim, dim);
    for (const char* name : {"norm_q", "norm_k"}) {
      tensors[block + "attn." + name + ".weight"] = values.make({shape.head_dim});
    }
    linear(block + "proj_mlp", 4 * dim, dim);
    linear(block + "proj_out", dim, 5 * dim);
  }
  linear("norm_out.linear", 2 * dim, dim);
  linear("proj_out", 64, dim);
  return tensors;
}

// The same under Black Forest Labs' names.
inline TinyTensors bfl_named(const TinyTensors& tensors, const std::string& prefix = "") {
  TinyTensors result;
  for (const auto& [name, ignored] : tensors) {
    const auto bfl = transformer_bfl_name(name);
    if (result.count(prefix + bfl) != 0) continue;
    TinyTensor& joined = result[prefix + bfl];
    for (const RowSource& part : transformer_sources(bfl)) {
      const TinyTensor& from = tensors.at(part.name);
      const auto share = from.values.size() / static_cast<std::size_t>(part.of);
      joined.values.insert(joined.values.end(),
                           from.values.begin() + static_cast<std::ptrdiff_t>(share) * part.begin,
                           from.values.begin() + static_cast<std::ptrdiff_t>(share) * part.end);
      const auto rows = from.shape[0] / part.of * (part.end - part.begin);
      if (joined.shape.empty()) {
        joined.shape = from.shape;
        joined.shape[0] = rows;
      } else {
        joined.shape[0] += rows;
      }
    }
  }
  return result;
}

// In transformers' names. The vocabulary is large enough for several pieces of a conversion.
inline TinyTensors tiny_t5(std::int64_t vocabulary = 9000) {
  TinyValues values;
  TinyTensors tensors;
  constexpr std::int64_t kDim = 128, kFf = 256, kHeads = 2;
  tensors["shared.weight"] = values.make({vocabulary, kDim});
  for (int i = 0; i < 2; ++i) {
    const auto block = "encoder.block." + std::to_string(i) + ".layer.";
    for (const char* name : {"q", "k", "v", "o"}) {
      tensors[block + "0.SelfAttention." + name + ".weight"] = values.make({kDim, kDim});
    }
    tensors[block + "0.layer_norm.weight"] = values.make({kDim});
    tensors[block + "1.layer_norm.weight"] = values.make({kDim});
    tensors[block + "1.DenseReluDense.wi_0.weight"] = values.make({kFf, kDim});
    tensors[block + "1.DenseReluDense.wi_1.weight"] = values.make({kFf, kDim});
    tensors[block + "1.DenseReluDense.wo.weight"] = values.make({kDim, kFf});
  }
  tensors["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] =
      values.make({32, kHeads});
  tensors["encoder.final_layer_norm.weight"] = values.make({kDim});
  return tensors;
}

inline std::string safetensors_text(const TinyTensors& tensors, DType dtype = DType::kBF16,
                                    const std::map<std::string, std::string>& metadata = {}) {
  std::map<std::string, std::vector<std::byte>> data;
  std::vector<TensorToWrite> to_write;
  for (const auto& [name, tensor] : tensors) {
    auto& bytes = data[name];
    bytes.resize(tensor.values.size() * item_size(dtype));
    for (std::size_t i = 0; i < tensor.values.size(); ++i) {
      const float value = tensor.values[i];
      const std::uint16_t bits =
          dtype == DType::kF16 ? float_to_half(value) : float_to_bfloat16(value);
      const void* from = dtype == DType::kF32 ? static_cast<const void*>(&value) : &bits;
      std::memcpy(bytes.data() + i * item_size(dtype), from, item_size(dtype));
    }
    to_write.push_back({{name, dtype, tensor.shape}, bytes});
  }
  const auto bytes = safetensors_bytes(std::move(to_write), metadata);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace steadyflux::testing
