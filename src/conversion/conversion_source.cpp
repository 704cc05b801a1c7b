#include "conversion/conversion_source.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/json.h"
#include "checkpoints/config_metadata.h"
#include "checkpoints/expected_shapes.h"
#include "checkpoints/infer_config.h"
#include "checkpoints/recognise.h"
#include "config/config_reader.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

json as_json(const FluxTransformerConfig& config) {
  return {{"_class_name", "FluxTransformer2DModel"},
          {"patch_size", config.patch_size},
          {"in_channels", config.in_channels},
          {"out_channels", config.out_channels},
          {"num_layers", config.num_layers},
          {"num_single_layers", config.num_single_layers},
          {"attention_head_dim", config.attention_head_dim},
          {"num_attention_heads", config.num_attention_heads},
          {"joint_attention_dim", config.joint_attention_dim},
          {"pooled_projection_dim", config.pooled_projection_dim},
          {"guidance_embeds", config.guidance_embeds},
          {"axes_dims_rope", config.axes_dims_rope}};
}

json as_json(const T5Config& config) {
  return {{"model_type", "t5"},
          {"vocab_size", config.vocab_size},
          {"d_model", config.d_model},
          {"d_kv", config.d_kv},
          {"d_ff", config.d_ff},
          {"num_layers", config.num_layers},
          {"num_heads", config.num_heads},
          {"relative_attention_num_buckets", config.relative_attention_num_buckets},
          {"relative_attention_max_distance", config.relative_attention_max_distance},
          {"layer_norm_epsilon", config.layer_norm_epsilon},
          {"feed_forward_proj", "gated-gelu"},
          {"is_gated_act", true},
          {"dense_act_fn", config.dense_act_fn}};
}

// What is told by config.json beside the tensors or by the file's metadata, else by the tensors.
template <typename Config>
struct FoundConfig {
  Config config;
  std::optional<std::string> text;  // not what the tensors tell
};

template <typename Config>
FoundConfig<Config> find_config(const fs::path& path, const Checkpoint& checkpoint,
                                const TensorShapes& shapes, Component component,
                                Config (*read)(const ConfigReader&),
                                Config (*infer)(const TensorShapes&, const std::string&)) {
  const auto file = path / "config.json";
  std::error_code error;
  const bool beside = fs::is_directory(path, error) && fs::exists(file, error);
  const auto inside = config_in_metadata(checkpoint.metadata(), component);
  FoundConfig<Config> found;
  std::optional<json> inferred;
  try {
    found.config = infer(shapes, checkpoint.path().string());
    inferred = as_json(found.config);
  } catch (const Error&) {
    if (!beside && !inside) throw;
  }
  if (beside) {
    found.config = read(ConfigReader(file));
    const auto own = as_json(found.config);
    if (own != inferred) found.text = own.dump();
  } else if (inside) {
    const auto where = checkpoint.path().string() + ": " + config_metadata_key(component);
    found.config = read(ConfigReader(parse_json(*inside, where), where));
    found.text = inside;
  }
  return found;
}

std::string packed_type(const StoredRows& rows) {
  if (rows.packed->packing == Packing::kCodes4) return "4-bit codes of bitsandbytes";
  if (rows.values.dtype == DType::kI8) return "LLM.int8";
  return to_string(rows.values.dtype);
}

// The folder or file that holds the component.
fs::path component_path(const fs::path& path, std::optional<Component> component) {
  std::error_code error;
  if (!fs::is_directory(path, error) || !fs::exists(path / "model_index.json", error)) return path;
  return path / (component == Component::kTextEncoder2 ? "text_encoder_2" : "transformer");
}

Component choose(const fs::path& path, const RecognisedFile& file,
                 std::optional<Component> component) {
  for (const auto candidate : {Component::kTransformer, Component::kTextEncoder2}) {
    if (file.has(candidate) && component.value_or(candidate) == candidate) return candidate;
  }
  const char* expected = !component ? "FLUX.1 transformer or a T5 encoder"
                         : *component == Component::kTransformer ? "FLUX.1 transformer"
                                                                 : "T5 encoder";
  throw Error(ErrorKind::kBadInput,
              fmt::format("{}: this is {}, expected a {}; name a file or folder that holds one",
                          path.string(), file.description, expected));
}

// Fills in what the source's configuration tells, and checks its tensors against it.
void read_configuration(ConversionSource& source, const fs::path& path,
                        const Checkpoint& checkpoint) {
  TensorShapes shapes;
  for (const auto& [name, tensor] : source.weights.tensors()) shapes.emplace(name, tensor.shape);
  if (source.component == Component::kTransformer) {
    auto found = find_config<FluxTransformerConfig>(path, checkpoint, shapes, source.component,
                                                    read_flux_transformer_config,
                                                    infer_flux_transformer_config);
    source.shapes = expected_shapes(found.config);
    source.config = std::move(found.text);
  } else {
    auto found = find_config<T5Config>(path, checkpoint, shapes, source.component, read_t5_config,
                                       infer_t5_config);
    source.t5 = found.config;
    source.shapes = expected_shapes(found.config);
    source.config = std::move(found.text);
  }
  check_shapes(shapes, source.shapes, source.weights.path().string());
}

}  // namespace

ConversionSource open_conversion_source(const fs::path& path, std::optional<Component> component) {
  const auto own_path = component_path(path, component);
  const auto checkpoint = Checkpoint::open(own_path);
  const auto recognised = recognise_file(checkpoint);
  const auto chosen = choose(checkpoint.path(), recognised, component);
  auto weights = ComponentWeights::find_in(checkpoint, chosen);
  if (!weights) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: this is {}, which cannot be converted", checkpoint.path().string(),
                            recognised.description));
  }
  ConversionSource source{.component = chosen,
                          .weights = std::move(*weights),
                          .description = recognised.description,
                          .t5 = {},
                          .shapes = {},
                          .config = {},
                          .packed_types = {},
                          .files = {}};
  read_configuration(source, own_path, checkpoint);
  std::set<std::string> types;
  std::set<fs::path> files;
  for (const auto& [name, tensor] : source.weights.tensors()) {
    for (const StoredRows& rows : tensor.rows) {
      if (rows.packed) types.insert(packed_type(rows));
      files.insert(rows.values.file->path());
    }
  }
  source.packed_types.assign(types.begin(), types.end());
  source.files.assign(files.begin(), files.end());
  return source;
}

}  // namespace steadyflux
