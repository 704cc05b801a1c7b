#include "checkpoints/open_model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "base/file_identity.h"
#include "base/json.h"
#include "base/utf8.h"
#include "checkpoints/config_metadata.h"
#include "checkpoints/find_parts.h"
#include "checkpoints/infer_config.h"
#include "checkpoints/recognise.h"
#include "config/config_reader.h"
#include "steadyflux/error.h"
#include "weights/component_weights.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

// The config of a part: from its folder's config.json, else from its tensors.
template <typename Config>
Config part_config(const fs::path& path, Component component, Config (*read)(const fs::path&),
                   Config (*infer)(const TensorShapes&, const std::string&),
                   Config (*read_json)(const ConfigReader&) = nullptr) {
  std::error_code error;
  if (fs::is_directory(path, error) && fs::exists(path / "config.json", error)) {
    return read(path / "config.json");
  }
  const auto checkpoint = Checkpoint::open(path);
  // What `quantize` writes where tensors do not tell all.
  const auto text = config_in_metadata(checkpoint.metadata(), component);
  if (text && read_json != nullptr) {
    const auto where = checkpoint.path().string() + ": " + config_metadata_key(component);
    return read_json(ConfigReader(parse_json(*text, where), where));
  }
  const auto weights = ComponentWeights::open(path, component);
  TensorShapes shapes;
  for (const auto& [name, tensor] : weights.tensors()) shapes.emplace(name, tensor.shape);
  return infer(shapes, weights.path().string());
}

struct PartDescription {
  Component component;
  fs::path FluxModel::Paths::*path;
  fs::path ModelParts::*named;
  const char* option;
  const char* folder;
};

constexpr std::array<PartDescription, 3> kParts = {{
    {Component::kTextEncoder, &FluxModel::Paths::text_encoder, &ModelParts::clip_l, "--clip-l",
     "text_encoder"},
    {Component::kTextEncoder2, &FluxModel::Paths::text_encoder_2, &ModelParts::t5, "--t5",
     "text_encoder_2"},
    {Component::kVae, &FluxModel::Paths::vae, &ModelParts::vae, "--vae", "vae"},
}};

// A part that was named: is it one?
void check_named(const fs::path& path, const PartDescription& part) {
  std::error_code error;
  if (!fs::exists(path, error)) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: no such file or folder; {} names a file or a component folder",
                            path.string(), part.option));
  }
  const auto file = recognise_file(Checkpoint::open(path));
  if (file.has(part.component)) return;
  throw Error(ErrorKind::kBadInput,
              fmt::format("{}: this is {}, expected a {}", path.string(), file.description,
                          part.component == Component::kVae           ? "VAE of FLUX.1"
                          : part.component == Component::kTextEncoder ? "CLIP-L text encoder"
                                                                      : "T5 encoder"));
}

bool is_tokenizer(const fs::path& folder) {
  std::error_code error;
  for (const char* file : {"merges.txt", "spiece.model", "tokenizer.json"}) {
    if (fs::exists(folder / file, error)) return true;
  }
  return false;
}

// The folder `name` in that which --tokenizers names.
fs::path named_tokenizer(const fs::path& tokenizers, const std::string& name) {
  std::error_code error;
  if (fs::is_directory(tokenizers / name, error)) return tokenizers / name;
  const auto found = !fs::is_directory(tokenizers, error) ? "no such folder"
                     : is_tokenizer(tokenizers)           ? "is a single tokenizer"
                                                          : "holds no " + name + "/";
  throw Error(ErrorKind::kBadInput, fmt::format("{}: {}; --tokenizers names the folder that holds "
                                                "tokenizer/ and tokenizer_2/",
                                                tokenizers.string(), found));
}

// Fills in the paths of all parts of a single file's model.
class PartsFinder {
 public:
  PartsFinder(const fs::path& file, const RecognisedFile& recognised, const ModelParts& parts)
      : file_(file), recognised_(recognised), parts_(parts) {}

  FluxModel::Paths find() {
    FluxModel::Paths paths;
    paths.transformer = file_;
    for (const PartDescription& part : kParts) paths.*part.path = find(part);
    paths.tokenizer = tokenizer("tokenizer");
    paths.tokenizer_2 = tokenizer("tokenizer_2");
    if (!missing_.empty()) throw missing_error();
    return paths;
  }

 private:
  const std::vector<Place>& places() {
    if (places_.empty()) places_ = places_beside(file_);
    return places_;
  }

  fs::path find(const PartDescription& part) {
    if (const fs::path& named = parts_.*part.named; !named.empty()) return named;
    if (part.component == Component::kVae && parts_.encode_only) return {};
    if (recognised_.has(part.component)) return file_;
    if (auto found = find_part(part.component, places())) return *found;
    if (part.component != Component::kVae && !parts_.encoders_needed) return {};
    missing_.push_back({part.folder, part.option});
    return {};
  }

  fs::path tokenizer(const std::string& name) {
    if (!parts_.tokenizers.empty()) return named_tokenizer(parts_.tokenizers, name);
    if (auto found = find_tokenizer(name, places())) return *found;
    if (!parts_.encoders_needed) return {};
    missing_.push_back({name, "--tokenizers"});
    return {};
  }

  Error missing_error() const {
    std::string names, patterns;
    for (const auto& [folder, option] : missing_) {
      names += fmt::format("{}{} ({})", names.empty() ? "" : ", ", folder, option);
      patterns += fmt::format(" \"{}/*\"", folder);
    }
    return {ErrorKind::kBadInput,
            fmt::format("{}: has no {} in it, beside it or in the Hugging Face cache; name what is "
                        "missing with these options or fetch it: hf download "
                        "black-forest-labs/FLUX.1-schnell --include{}",
                        file_.string(), names, patterns)};
  }

  struct MissingPart {
    std::string folder;  // of the diffusers layout
    std::string option;  // that names it
  };

  const fs::path& file_;
  const RecognisedFile& recognised_;
  const ModelParts& parts_;
  std::vector<Place> places_;
  std::vector<MissingPart> missing_;
};

void read_configs(FluxModel& model) {
  const auto& paths = model.paths;
  model.transformer = transformer_config(paths.transformer);
  // Where an encoder is not there, and prompts come encoded, it gives what the transformer takes.
  if (paths.text_encoder.empty()) {
    model.text_encoder.hidden_size = model.transformer.pooled_projection_dim;
  } else {
    model.text_encoder = text_encoder_config(paths.text_encoder);
  }
  if (paths.text_encoder_2.empty()) {
    model.text_encoder_2.d_model = model.transformer.joint_attention_dim;
  } else {
    model.text_encoder_2 = text_encoder_2_config(paths.text_encoder_2);
  }
  if (paths.vae.empty()) {
    model.assume_vae();
  } else {
    model.vae = vae_config(paths.vae);
  }
}

FluxModel open_file(const fs::path& file, const ModelParts& parts) {
  const auto recognised = recognise_file(Checkpoint::open(file));
  if (!recognised.has(Component::kTransformer)) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: this is {}, steadyflux makes pictures with FLUX.1 models",
                            file.string(), recognised.description));
  }
  FluxModel model;
  model.root = file;
  model.name = file.stem().string();
  model.paths = PartsFinder(file, recognised, parts).find();
  for (const PartDescription& part : kParts) {
    if (!(parts.*part.named).empty()) check_named(model.paths.*part.path, part);
  }
  read_configs(model);
  model.scheduler = infer_flow_match_euler_config(model.transformer);
  check_parts(model);
  model.defaults = read_generation_defaults(file.parent_path(), model);
  return model;
}

// The single-file checkpoint in a folder that is no diffusers folder.
std::optional<fs::path> checkpoint_in(const fs::path& folder) {
  std::vector<fs::path> found;
  for (const fs::path& path : weight_files_in(folder)) {
    try {
      if (recognise_file(Checkpoint::open(path)).has(Component::kTransformer))
        found.push_back(path);
    } catch (const Error&) {
      continue;
    }
  }
  if (found.size() > 1) {
    std::vector<std::string> names(found.size());
    std::transform(found.begin(), found.end(), names.begin(),
                   [](const fs::path& path) { return path.filename().string(); });
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: holds several models, name one of them: {}", folder.string(),
                            printable(fmt::format("{}", fmt::join(names, ", ")), 400)));
  }
  if (found.empty()) return std::nullopt;
  return found.front();
}

FluxModel open_folder(const fs::path& folder, const ModelParts& parts) {
  FluxModel model = FluxModel::open(folder, parts.encode_only);
  const bool any = std::any_of(kParts.begin(), kParts.end(), [&](const PartDescription& part) {
    return !(parts.*part.named).empty();
  });
  if (!any && parts.tokenizers.empty()) return model;
  for (const PartDescription& part : kParts) {
    if ((parts.*part.named).empty()) continue;
    model.paths.*part.path = parts.*part.named;
    check_named(model.paths.*part.path, part);
  }
  if (!parts.tokenizers.empty()) {
    model.paths.tokenizer = named_tokenizer(parts.tokenizers, "tokenizer");
    model.paths.tokenizer_2 = named_tokenizer(parts.tokenizers, "tokenizer_2");
  }
  read_configs(model);
  check_parts(model);
  return model;
}

FluxModel open_flux(const fs::path& path, const ModelParts& parts) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return open_file(path, parts);
  if (!fs::exists(path / "model_index.json", error)) {
    if (const auto file = checkpoint_in(path)) return open_file(*file, parts);
  }
  return open_folder(path, parts);
}

void add_redux(FluxModel& model, const ReduxModel& redux) {
  const auto width = redux.config.image_embedder.txt_in_features;
  if (width != model.transformer.joint_attention_dim) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: gives tokens of {} values, and {} takes {}; it is for another "
                            "model",
                            redux.image_embedder.string(), width, model.name,
                            model.transformer.joint_attention_dim));
  }
  model.redux = redux.config;
  model.paths.image_encoder = redux.image_encoder;
  model.paths.image_embedder = redux.image_embedder;
}

// Files of a part, under names that begin with the part's.
void add_part(std::vector<NamedFile>& files, const std::string& name, const fs::path& path) {
  std::error_code error;
  if (fs::is_regular_file(path, error)) {
    files.push_back({name + "/" + path.filename().string(), path});
    return;
  }
  for (const fs::path& file : list_model_files(path)) {
    files.push_back({name + "/" + file.generic_string(), path / file});
  }
}

std::vector<NamedFile> sorted(std::vector<NamedFile> files) {
  std::sort(files.begin(), files.end(),
            [](const NamedFile& a, const NamedFile& b) { return a.name < b.name; });
  return files;
}

}  // namespace

FluxModel open_model(const fs::path& path, const ModelParts& parts) {
  auto model = open_flux(path, parts);
  if (!parts.redux.empty()) add_redux(model, open_redux(parts.redux, parts.image_encoder));
  return model;
}

ReduxModel open_redux(const fs::path& path, const fs::path& image_encoder) {
  std::error_code error;
  const bool is_file = fs::is_regular_file(path, error);
  ReduxModel redux{
      is_file ? fs::path() : path / "image_encoder", is_file ? path : path / "image_embedder", {}};
  if (!image_encoder.empty()) redux.image_encoder = image_encoder;
  if (redux.image_encoder.empty()) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: holds no image encoder; name SigLIP with --image-encoder, or give "
                            "--redux the folder of FLUX.1-Redux-dev",
                            path.string()));
  }
  for (const auto& part : {redux.image_encoder, redux.image_embedder}) {
    if (fs::exists(part, error)) continue;
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: no such file or folder; FLUX.1-Redux has image_encoder/ and "
                            "image_embedder/ (hf download black-forest-labs/FLUX.1-Redux-dev)",
                            part.string()));
  }
  auto& config = redux.config;
  config.image_encoder =
      part_config<SiglipVisionConfig>(redux.image_encoder, Component::kImageEncoder,
                                      read_siglip_vision_config, infer_siglip_vision_config);
  config.image_embedder = part_config<ReduxImageEncoderConfig>(
      redux.image_embedder, Component::kImageEmbedder, read_redux_image_encoder_config,
      infer_redux_image_encoder_config);
  const auto processor = path / "feature_extractor" / "preprocessor_config.json";
  if (fs::exists(processor, error)) check_siglip_image_processor(processor, config.image_encoder);
  if (config.image_embedder.redux_dim != config.image_encoder.hidden_size) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: takes {} values a token, and the image encoder {} gives {}; they "
                            "do not belong together",
                            redux.image_embedder.string(), config.image_embedder.redux_dim,
                            redux.image_encoder.string(), config.image_encoder.hidden_size));
  }
  return redux;
}

FluxTransformerConfig transformer_config(const fs::path& path) {
  return part_config<FluxTransformerConfig>(
      path, Component::kTransformer, read_flux_transformer_config, infer_flux_transformer_config,
      read_flux_transformer_config);
}

ClipTextConfig text_encoder_config(const fs::path& path) {
  return part_config<ClipTextConfig>(path, Component::kTextEncoder, read_clip_text_config,
                                     infer_clip_text_config);
}

T5Config text_encoder_2_config(const fs::path& path) {
  return part_config<T5Config>(path, Component::kTextEncoder2, read_t5_config, infer_t5_config,
                               read_t5_config);
}

AutoencoderKlConfig vae_config(const fs::path& path) {
  return part_config<AutoencoderKlConfig>(path, Component::kVae, read_autoencoder_kl_config,
                                          infer_autoencoder_kl_config);
}

std::vector<NamedFile> encoder_files(const FluxModel& model) {
  std::vector<NamedFile> files;
  add_part(files, "text_encoder", model.paths.text_encoder);
  add_part(files, "text_encoder_2", model.paths.text_encoder_2);
  add_part(files, "tokenizer", model.paths.tokenizer);
  add_part(files, "tokenizer_2", model.paths.tokenizer_2);
  return sorted(std::move(files));
}

std::vector<NamedFile> redux_files(const FluxModel& model) {
  std::vector<NamedFile> files;
  add_part(files, "image_encoder", model.paths.image_encoder);
  add_part(files, "image_embedder", model.paths.image_embedder);
  return sorted(std::move(files));
}

std::vector<NamedFile> model_files(const FluxModel& model) {
  std::vector<NamedFile> files;
  std::error_code error;
  const auto& paths = model.paths;
  for (const auto& [name, path] : {std::pair{"text_encoder", paths.text_encoder},
                                   {"text_encoder_2", paths.text_encoder_2},
                                   {"tokenizer", paths.tokenizer},
                                   {"tokenizer_2", paths.tokenizer_2},
                                   {"transformer", paths.transformer},
                                   {"vae", paths.vae},
                                   {"scheduler", model.root / "scheduler"}}) {
    // Where prompts come encoded, tokenizers may be absent.
    if (fs::exists(path, error)) add_part(files, name, path);
  }
  for (const char* name : {"model_index.json", "steadyflux.json"}) {
    if (fs::is_regular_file(model.root / name, error)) files.push_back({name, model.root / name});
  }
  return sorted(std::move(files));
}

}  // namespace steadyflux
