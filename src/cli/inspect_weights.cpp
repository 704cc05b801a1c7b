#include "cli/inspect_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <vector>

#include "checkpoints/open_model.h"
#include "checkpoints/recognise.h"
#include "config/model_config.h"
#include "embeddings/prompt_embeds_file.h"
#include "lora/lora_file.h"
#include "lora/lora_summary.h"
#include "steadyflux/error.h"
#include "weights/component_weights.h"
#include "weights/packed_parts.h"

namespace steadyflux::cli {
namespace {

namespace fs = std::filesystem;

const char* kind_name(FileKind kind) {
  switch (kind) {
    case FileKind::kTransformer:
      return "transformer";
    case FileKind::kTextEncoder:
      return "text_encoder";
    case FileKind::kTextEncoder2:
      return "text_encoder_2";
    case FileKind::kVae:
      return "vae";
    case FileKind::kAllInOne:
      return "all-in-one";
    case FileKind::kLora:
      return "lora";
    case FileKind::kOther:
      return "other";
    case FileKind::kUnknown:
      break;
  }
  return "unknown";
}

const char* naming_name(Naming naming) {
  switch (naming) {
    case Naming::kBfl:
      return "bfl";
    case Naming::kLlamaCpp:
      return "llama.cpp";
    case Naming::kDiffusers:
      break;
  }
  return "diffusers";
}

// A tensor of the file with what belongs to it.
struct ListedTensor {
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::int64_t values = 0;
  std::int64_t bytes = 0;
};
using ListedTensors = std::map<std::string, ListedTensor>;

std::string dtype_name(const std::string& name, const StoredRows& rows,
                       const Checkpoint& checkpoint) {
  if (!rows.packed) return to_string(rows.values.dtype);
  if (rows.packed->packing == Packing::kCodes4) {
    return checkpoint.find(name + ".quant_state.bitsandbytes__fp4") != nullptr ? "FP4" : "NF4";
  }
  return rows.values.dtype == DType::kI8 ? "LLM.int8" : to_string(rows.values.dtype);
}

ListedTensors list(const Checkpoint& checkpoint, bool is_model) {
  std::map<std::string, StoredRows> all;
  if (is_model) {
    all = assemble_packed(checkpoint.tensors());
  } else {  // what belongs together is not known
    for (const auto& [name, view] : checkpoint.tensors()) all.emplace(name, StoredRows{view, {}});
  }
  ListedTensors result;
  for (const auto& [name, rows] : all) {
    ListedTensor& tensor = result[name];
    tensor.dtype = dtype_name(name, rows, checkpoint);
    tensor.shape = rows.values.shape;
    tensor.values = value_count(tensor.shape);
    for (const TensorView* view : rows.views()) {
      tensor.bytes += static_cast<std::int64_t>(view->nbytes);
    }
  }
  return result;
}

struct Summary {
  std::int64_t tensors = 0, parameters = 0, bytes = 0;

  void add(const ListedTensor& tensor) {
    ++tensors;
    parameters += tensor.values;
    bytes += tensor.bytes;
  }
  Json json() const { return {{"tensors", tensors}, {"parameters", parameters}, {"bytes", bytes}}; }
};

Json summarize(const std::vector<const ListedTensor*>& tensors) {
  Summary all;
  std::map<std::string, Summary> dtypes;
  for (const ListedTensor* tensor : tensors) {
    all.add(*tensor);
    dtypes[tensor->dtype].add(*tensor);
  }
  Json result = all.json();
  result["dtypes"] = Json::object();
  for (const auto& [dtype, summary] : dtypes) result["dtypes"][dtype] = summary.json();
  return result;
}

Json config_json(const FluxTransformerConfig& config) {
  return {{"num_layers", config.num_layers},
          {"num_single_layers", config.num_single_layers},
          {"width", config.inner_dim()},
          {"num_attention_heads", config.num_attention_heads},
          {"attention_head_dim", config.attention_head_dim},
          {"in_channels", config.in_channels},
          {"joint_attention_dim", config.joint_attention_dim},
          {"pooled_projection_dim", config.pooled_projection_dim},
          {"guidance_embeds", config.guidance_embeds}};
}
Json config_json(const ClipTextConfig& config) {
  return {{"num_hidden_layers", config.num_hidden_layers},
          {"width", config.hidden_size},
          {"num_attention_heads", config.num_attention_heads},
          {"intermediate_size", config.intermediate_size},
          {"vocab_size", config.vocab_size}};
}
Json config_json(const T5Config& config) {
  return {{"num_layers", config.num_layers},
          {"width", config.d_model},
          {"num_heads", config.num_heads},
          {"d_kv", config.d_kv},
          {"d_ff", config.d_ff},
          {"vocab_size", config.vocab_size}};
}
Json config_json(const AutoencoderKlConfig& config) {
  return {{"latent_channels", config.latent_channels},
          {"block_out_channels", config.block_out_channels},
          {"layers_per_block", config.layers_per_block}};
}

// `problem` says why there is none.
Json find_config(const fs::path& path, Component component, std::string& problem) {
  try {
    switch (component) {
      case Component::kTransformer:
        return config_json(transformer_config(path));
      case Component::kTextEncoder:
        return config_json(text_encoder_config(path));
      case Component::kTextEncoder2:
        return config_json(text_encoder_2_config(path));
      case Component::kVae:
        return config_json(vae_config(path));
      case Component::kImageEncoder:
      case Component::kImageEmbedder:
        break;  // no file is told to be one of them alone
    }
    return nullptr;
  } catch (const Error& failure) {
    problem = failure.what();
    return nullptr;
  }
}

class Parts {
 public:
  Parts(const fs::path& path, const Checkpoint& checkpoint, const ListedTensors& tensors)
      : path_(path), checkpoint_(checkpoint), tensors_(tensors) {
    for (const auto& [name, tensor] : tensors) unmatched_.insert(name);
  }

  Json describe(const FilePart& part) {
    int up_blocks = 0;
    for (const auto& [name, tensor] : tensors_) {
      if (const auto own = strip_prefix(name, part.prefix)) {
        up_blocks = std::max(up_blocks, least_up_blocks(*own));
      }
    }
    std::vector<const ListedTensor*> own_tensors;
    for (const auto& [name, tensor] : tensors_) {
      const auto own = strip_prefix(name, part.prefix);
      if (!own) continue;
      if (is_ignored(part.component, *own)) unmatched_.erase(name);
      if (placements(part.component, *own, up_blocks).empty()) continue;
      unmatched_.erase(name);
      own_tensors.push_back(&tensor);
    }
    Json result = {{"names", naming_name(part.naming)}, {"prefix", part.prefix}};
    result.update(summarize(own_tensors));
    std::string problem;
    result["config"] = find_config(path_, part.component, problem);
    if (!problem.empty()) result["problem"] = problem;
    return result;
  }

  const std::set<std::string>& unmatched() const { return unmatched_; }

 private:
  const fs::path& path_;
  const Checkpoint& checkpoint_;
  const ListedTensors& tensors_;
  std::set<std::string> unmatched_;
};

// Nothing if it is no LoRA for FLUX.1; `problem` says why.
std::optional<LoraSummary> read_lora_summary(const fs::path& path, std::string& problem) {
  try {
    return summarize(read_lora(path));
  } catch (const Error& error) {
    problem = error.what();
    return std::nullopt;
  }
}

Json lora_json(const LoraSummary& lora) {
  return {{"format", lora.format},     {"kinds", lora.kinds},           {"min_rank", lora.min_rank},
          {"max_rank", lora.max_rank}, {"components", lora.components}, {"targets", lora.targets}};
}

bool holds_embeddings(const Checkpoint& checkpoint) {
  const auto has = [&](const char* name) { return checkpoint.find(name) != nullptr; };
  return has("prompt_embeds") || has("prompt_embeds.0");
}

Json embeddings_json(const fs::path& path) {
  const PromptEmbedsFile file(path);
  Json prompts = Json::array();
  for (std::size_t i = 0; i < file.size(); ++i) {
    const StoredEmbeds& info = file.info(i);
    Json prompt = {{"prompt", info.prompt}};
    if (!info.prompt_2.empty()) prompt["prompt_2"] = info.prompt_2;
    prompt["negative"] = info.negative;
    prompt["max_sequence_length"] = info.max_sequence_length;
    prompt["dtype"] = info.dtype;
    prompt["encoder"] = info.encoder;
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

}  // namespace

Json inspect_weights(const fs::path& path, bool with_tensors) {
  const auto checkpoint = Checkpoint::open(path);
  const auto file = recognise_file(checkpoint);
  const auto tensors = list(checkpoint, !file.parts.empty());
  std::vector<const ListedTensor*> all;
  for (const auto& [name, tensor] : tensors) all.push_back(&tensor);

  Json result = {{"kind", kind_name(file.kind)},
                 {"format", checkpoint.is_gguf() ? "gguf" : "safetensors"},
                 {"description", file.description}};
  if (file.variant) result["variant"] = to_string(*file.variant);
  result.update(summarize(all));

  std::error_code error;
  const bool is_file = fs::is_regular_file(path, error);
  std::string problem;
  std::set<std::string> unmatched;
  if (!file.parts.empty()) {
    Parts parts(path, checkpoint, tensors);
    for (const FilePart& part : file.parts) {
      result["components"][to_string(part.component)] = parts.describe(part);
    }
    unmatched = parts.unmatched();
  } else if (is_file && !checkpoint.is_gguf() && holds_embeddings(checkpoint)) {
    result["kind"] = "embeddings";
    result["description"] = "prompt embeddings";
    result["prompts"] = embeddings_json(path);
  } else if (is_file && !checkpoint.is_gguf() &&
             (file.kind == FileKind::kLora || file.kind == FileKind::kUnknown)) {
    // Names of whole differences do not look like a LoRA's; whoever knows all of them says it.
    if (const auto lora = read_lora_summary(path, problem)) {
      result["kind"] = "lora";
      if (file.kind == FileKind::kUnknown) result["description"] = "a LoRA for FLUX.1";
      result["lora"] = lora_json(*lora);
      unmatched.insert(lora->unmatched.begin(), lora->unmatched.end());
    } else if (file.kind == FileKind::kLora) {
      result["problem"] = problem;
    }
  }
  result["unmatched"] = unmatched;
  result["metadata"] =
      Json::parse(checkpoint.metadata().dump(-1, ' ', false, Json::error_handler_t::replace));
  if (with_tensors) {
    result["tensor_list"] = Json::array();
    for (const auto& [name, tensor] : tensors) {
      result["tensor_list"].push_back(
          {{"name", name}, {"dtype", tensor.dtype}, {"shape", tensor.shape}});
    }
  }
  return result;
}

}  // namespace steadyflux::cli
