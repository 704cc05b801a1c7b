#include "cli/picture_output.h"

#include <ATen/Version.h>

#include "base/file_identity.h"
#include "checkpoints/open_model.h"
#include "cli/version.h"
#include "embeddings/embeds_cache.h"
#include "embeddings/kept_identity.h"
#include "image/jpeg.h"
#include "image/output_file.h"
#include "image/png.h"
#include "pipeline/chunk.h"

namespace steadyflux::cli {

namespace fs = std::filesystem;

namespace {

// As it is recorded.
std::string path_text(const fs::path& path) {
  return fs::absolute(path).lexically_normal().string();
}

// Nothing where it has no effect: such pictures are the same without it.
std::optional<NegativeRecord> negative_record(const Request& request) {
  if (!request.has_true_cfg()) return std::nullopt;
  return NegativeRecord{*request.negative_prompt, negative_chunk_prompt(request).text_2,
                        request.true_cfg_scale};
}

// The texts beside the prompt, where there are any, under the names of their options.
template <typename Json>
void add_prompts(Json& object, const PictureMetadata& metadata) {
  if (!metadata.prompt_2.empty()) object["prompt_2"] = metadata.prompt_2;
  if (!metadata.negative) return;
  object["negative_prompt"] = metadata.negative->prompt;
  if (!metadata.negative->prompt_2.empty()) {
    object["negative_prompt_2"] = metadata.negative->prompt_2;
  }
  object["true_cfg_scale"] = metadata.negative->true_cfg_scale;
}

ConditionRecord condition_record(const ConditionImage& condition) {
  ConditionRecord record;
  record.role = condition.role;
  record.image = path_text(condition.image);
  record.image_hash = files_identity({{"image", condition.image}});
  if (condition.role == ConditionImage::Role::kFill) {
    record.mask = path_text(condition.mask);
    record.mask_hash = files_identity({{"mask", condition.mask}});
  }
  if (condition.role == ConditionImage::Role::kReference) {
    record.width = condition.width;
    record.height = condition.height;
  }
  return record;
}

ReduxRecord redux_record(const GenerateJob& job, const Request& request) {
  ReduxRecord record;
  record.model_hash =
      kept_identity(redux_files(job.model), job.use_cache ? cache_folder() : fs::path());
  record.has_prompt = request.has_prompt;
  for (const auto& image : request.redux_images) {
    record.images.push_back(
        {path_text(image.image), files_identity({{"image", image.image}}), image.scale});
  }
  return record;
}

}  // namespace

std::string model_hash_of(const GenerateJob& job) {
  return kept_identity(model_files(job.model), job.use_cache ? cache_folder() : fs::path());
}

PictureMetadata describe(const GenerateJob& job, const Request& request, const Pipeline& pipeline,
                         const std::string& model_hash) {
  PictureMetadata metadata{
      .prompt = request.prompt,
      .prompt_2 = chunk_prompt(request).text_2,
      .negative = negative_record(request),
      .width = request.width,
      .height = request.height,
      .num_inference_steps = request.num_inference_steps,
      .sampling = request.sampling,
      .guidance_scale = std::nullopt,
      .seed = request.seed,
      .max_sequence_length = request.max_sequence_length,
      .model = job.model.name,
      .model_path = path_text(job.pipeline.model),
      .model_parts = {},
      .model_hash = model_hash,
      .loras = {},
      .dtype = pipeline.dtype_name(),
      .compute = job.pipeline.compute,
      .device = pipeline.device_name(),
      .num_threads = pipeline.num_threads(),
      .steadyflux_version = steadyflux_version(),
      .libtorch_version = libtorch_version(),
      .cpu_capability = at::get_cpu_capability(),
  };
  const auto& parts = job.pipeline.parts;
  const bool with_redux = !request.redux_images.empty();
  for (const auto& [name, path] :
       {std::pair{"vae", parts.vae},
        {"clip-l", parts.clip_l},
        {"t5", parts.t5},
        {"tokenizers", parts.tokenizers},
        {"redux", with_redux ? parts.redux : fs::path()},
        {"image-encoder", with_redux ? parts.image_encoder : fs::path()}}) {
    if (path.empty()) continue;
    metadata.model_parts.emplace(name, path_text(path));
  }
  for (const auto& lora : request.loras) {
    const NamedFile file{lora.path.filename().string(), lora.path};
    metadata.loras.push_back({path_text(lora.path), lora.strength,
                              kept_identity({file}, job.use_cache ? cache_folder() : fs::path())});
  }
  if (const auto& init = request.init_image) {
    InitImageRecord record;
    record.image = path_text(init->image);
    record.image_hash = files_identity({{"image", init->image}});
    if (!init->mask.empty()) {
      record.mask = path_text(init->mask);
      record.mask_hash = files_identity({{"mask", init->mask}});
    }
    record.strength = init->strength;
    metadata.init_image = std::move(record);
  }
  if (request.condition) metadata.condition = condition_record(*request.condition);
  if (with_redux) metadata.redux = redux_record(job, request);
  metadata.tile = request.tile;
  if (request.progressive) {
    metadata.progressive = ProgressiveRecord{
        request.progressive->base, request.progressive->strength, request.width, request.height};
  }
  if (job.model.transformer.guidance_embeds) metadata.guidance_scale = request.guidance_scale;
  return metadata;
}

PictureMetadata of_image(PictureMetadata metadata, const Image& image) {
  metadata.width = image.width;
  metadata.height = image.height;
  return metadata;
}

void write_picture(const std::string& output, const PictureMetadata& metadata, const Image& image) {
  const std::string parameters = a1111_parameters(metadata);
  const auto png = [&] {
    return encode_png(image.width, image.height, image.rgb,
                      {.parameters = parameters, .steadyflux = to_json(metadata)});
  };
  if (output == "-") return write_stdout(png());
  if (picture_format(output) == PictureFormat::kJpeg) {
    write_file_atomically(output, encode_jpeg(image.width, image.height, image.rgb, parameters));
  } else {
    write_file_atomically(output, png());
  }
}

void add_inputs(nlohmann::ordered_json& answer, const PictureMetadata& metadata) {
  add_prompts(answer, metadata);
  answer.update(sampling_json(metadata.sampling));
  for (const auto& lora : metadata.loras) {
    answer["loras"].push_back({{"path", lora.path}, {"strength", lora.strength}});
  }
  if (metadata.init_image) {
    auto& init = answer["init_image"];
    init["image"] = metadata.init_image->image;
    if (!metadata.init_image->mask.empty()) init["mask"] = metadata.init_image->mask;
    init["strength"] = metadata.init_image->strength;
  }
  if (metadata.condition) {
    auto& condition = answer["condition"];
    condition["role"] = role_name(metadata.condition->role);
    condition["image"] = metadata.condition->image;
    if (!metadata.condition->mask.empty()) condition["mask"] = metadata.condition->mask;
    if (metadata.condition->width > 0) {
      condition["width"] = metadata.condition->width;
      condition["height"] = metadata.condition->height;
    }
  }
  if (metadata.redux) {
    auto& redux = answer["redux"];
    redux["prompt"] = metadata.redux->has_prompt;
    for (const auto& image : metadata.redux->images) {
      redux["images"].push_back({{"image", image.image}, {"scale", image.scale}});
    }
  }
  if (metadata.tile > 0) answer["tile"] = metadata.tile;
  if (const auto& stages = metadata.progressive) {
    answer["progressive"] = {{"base", stages->base}, {"strength", stages->strength}};
  }
}

nlohmann::json picture_settings(const PictureMetadata& metadata, bool any_seed) {
  nlohmann::json settings = {{"version", 1},
                             {"prompt", metadata.prompt},
                             {"width", metadata.width},
                             {"height", metadata.height},
                             {"steps", metadata.num_inference_steps},
                             {"max_sequence_length", metadata.max_sequence_length},
                             {"model", metadata.model_hash},
                             {"dtype", metadata.dtype}};
  if (metadata.compute != "auto") settings["compute"] = metadata.compute;
  add_prompts(settings, metadata);
  settings.update(nlohmann::json(sampling_json(metadata.sampling)));
  if (metadata.guidance_scale) settings["guidance"] = *metadata.guidance_scale;
  for (const auto& lora : metadata.loras) {
    settings["loras"].push_back({{"hash", lora.hash}, {"strength", lora.strength}});
  }
  if (const auto& init = metadata.init_image) {
    settings["init_image"] = {{"image", init->image_hash}, {"strength", init->strength}};
    if (!init->mask.empty()) settings["init_image"]["mask"] = init->mask_hash;
  }
  if (const auto& condition = metadata.condition) {
    auto& shown = settings["condition"];
    shown = {{"role", role_name(condition->role)}, {"image", condition->image_hash}};
    if (!condition->mask.empty()) shown["mask"] = condition->mask_hash;
    if (condition->width > 0) {
      shown["width"] = condition->width;
      shown["height"] = condition->height;
    }
  }
  if (const auto& redux = metadata.redux) {
    settings["redux"] = {{"model", redux->model_hash}, {"prompt", redux->has_prompt}};
    for (const auto& image : redux->images) {
      settings["redux"]["images"].push_back({{"hash", image.hash}, {"scale", image.scale}});
    }
  }
  if (metadata.tile > 0) settings["tile"] = metadata.tile;
  if (const auto& stages = metadata.progressive) {
    settings["progressive"] = {{"base", stages->base}, {"strength", stages->strength}};
    settings["width"] = stages->goal_width;
    settings["height"] = stages->goal_height;
  }
  if (any_seed) {
    settings["seed"] = "any";
  } else {
    settings["seed"] = metadata.seed;
  }
  return settings;
}

std::optional<nlohmann::json> recorded_settings(const fs::path& path, bool any_seed) {
  try {
    const auto texts = read_png_text(path);
    const auto record = texts.find(kPngSteadyflux);
    if (record == texts.end()) return std::nullopt;
    return picture_settings(metadata_from_json(record->second, path.string()), any_seed);
  } catch (const Error&) {  // no PNG, or a damaged one: nothing of ours
    return std::nullopt;
  }
}

}  // namespace steadyflux::cli
