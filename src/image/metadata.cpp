#include "image/metadata.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/json.h"
#include "base/utf8.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr std::int64_t kFormat = 1;  // raised when an old reader could misunderstand
constexpr std::int64_t kMaxSide = 1 << 20;
constexpr std::int64_t kMaxCount = 1 << 30;

using Role = ConditionImage::Role;

constexpr std::pair<Role, const char*> kRoles[] = {
    {Role::kReference, "reference"}, {Role::kFill, "fill"}, {Role::kControl, "control"}};

// One object of checked values; every failure names the file and the key.
class Fields {
 public:
  Fields(const json& object, const std::string& file) : object_(object), file_(file) {}

  std::string text(const char* key) const {
    const json& value = at(key);
    if (!value.is_string()) throw bad(key, value, "a string");
    return value.get<std::string>();
  }

  std::int64_t integer(const char* key, std::int64_t smallest, std::int64_t largest) const {
    const json& value = at(key);
    const std::string expected = fmt::format("a whole number {}..{}", smallest, largest);
    // Numbers from 2^63 on are unsigned and would wrap around.
    if (!value.is_number_integer() ||
        (value.is_number_unsigned() &&
         value.get<std::uint64_t>() > static_cast<std::uint64_t>(largest))) {
      throw bad(key, value, expected);
    }
    const auto number = value.get<std::int64_t>();
    if (number < smallest || number > largest) throw bad(key, value, expected);
    return number;
  }

  std::uint64_t unsigned_integer(const char* key) const {
    const json& value = at(key);
    if (!value.is_number_unsigned()) {
      throw bad(key, value, "a whole number 0..18446744073709551615");
    }
    return value.get<std::uint64_t>();
  }

  std::optional<double> optional_number(const char* key) const {
    const auto found = object_.find(key);
    if (found == object_.end() || found->is_null()) return std::nullopt;
    if (!found->is_number() || !std::isfinite(found->get<double>())) {
      throw bad(key, *found, "a number");
    }
    return found->get<double>();
  }

  // Empty where the key is absent.
  std::map<std::string, std::string> texts(const char* key) const {
    std::map<std::string, std::string> result;
    const auto found = object_.find(key);
    if (found == object_.end()) return result;
    if (!found->is_object()) throw bad(key, *found, "an object");
    for (const auto& [name, value] : found->items()) {
      if (!value.is_string()) throw bad(key, *found, "an object of strings");
      result.emplace(name, value.get<std::string>());
    }
    return result;
  }

  // Empty where the key is absent.
  std::string optional_text(const char* key) const {
    return object_.contains(key) ? text(key) : std::string();
  }

  // Absent in pictures without a negative prompt.
  std::optional<NegativeRecord> negative() const {
    if (!object_.contains("negative_prompt")) return std::nullopt;
    NegativeRecord record{text("negative_prompt"), optional_text("negative_prompt_2"),
                          optional_number("true_cfg_scale").value_or(0)};
    if (!(record.true_cfg_scale > 1)) {
      throw bad("true_cfg_scale", at("true_cfg_scale"), "a number above 1");
    }
    return record;
  }

  // Absent in pictures from noise alone.
  std::optional<InitImageRecord> init_image() const {
    const auto fields = object("init_image");
    if (!fields) return std::nullopt;
    InitImageRecord record{fields->text("image"), fields->text("image_hash")};
    if (fields->object_.contains("mask")) {
      record.mask = fields->text("mask");
      record.mask_hash = fields->text("mask_hash");
    }
    record.strength = strength_in("init_image", *fields);
    return record;
  }

  // Absent where the model was shown nothing.
  std::optional<ConditionRecord> condition() const {
    const auto fields = object("condition");
    if (!fields) return std::nullopt;
    ConditionRecord record{fields->role(), fields->text("image"), fields->text("image_hash")};
    if (record.role == Role::kFill) {
      record.mask = fields->text("mask");
      record.mask_hash = fields->text("mask_hash");
    }
    if (record.role == Role::kReference) {
      record.width = fields->integer("width", 1, kMaxSide);
      record.height = fields->integer("height", 1, kMaxSide);
    }
    return record;
  }

  // Absent where no picture was taken up.
  std::optional<ReduxRecord> redux() const {
    const auto fields = object("redux");
    if (!fields) return std::nullopt;
    ReduxRecord record;
    record.model_hash = fields->text("model_hash");
    const json& prompt = fields->at("prompt");
    if (!prompt.is_boolean()) throw bad("prompt", prompt, "true or false");
    record.has_prompt = prompt.get<bool>();
    const json& images = fields->at("images");
    if (!images.is_array() || images.empty()) throw bad("images", images, "a list");
    for (const json& entry : images) {
      if (!entry.is_object()) throw bad("images", images, "a list of objects");
      const Fields image(entry, file_);
      record.images.push_back(
          {image.text("image"), image.text("hash"), image.optional_number("scale").value_or(1.0)});
    }
    return record;
  }

  // Absent in pictures that were made at once.
  std::optional<ProgressiveRecord> progressive() const {
    const auto fields = object("progressive");
    if (!fields) return std::nullopt;
    ProgressiveRecord record;
    record.base = fields->integer("base", 1, kMaxSide);
    record.goal_width = fields->integer("goal_width", 1, kMaxSide);
    record.goal_height = fields->integer("goal_height", 1, kMaxSide);
    record.strength = strength_in("progressive", *fields);
    return record;
  }

  // Absent: as it is without being asked for. Names and order are checked where it is used.
  Sampling sampling() const {
    Sampling result;
    if (object_.contains("scheduler")) result.scheduler = text("scheduler");
    if (object_.contains("compat")) result.compat = text("compat");
    result.shift = optional_number("shift");
    if (result.shift && *result.shift <= 0) {
      throw bad("shift", object_.at("shift"), "a number above 0");
    }
    result.cache_threshold = optional_number("cache_threshold").value_or(0);
    if (!(result.cache_threshold >= 0 && result.cache_threshold <= 1)) {
      throw bad("cache_threshold", object_.at("cache_threshold"), "a number from 0 to 1");
    }
    const auto sigmas = object_.find("sigmas");
    if (sigmas == object_.end()) return result;
    for (const json& sigma : *sigmas) {
      if (!sigma.is_number() || !(sigma.get<double>() > 0 && sigma.get<double>() <= 1)) break;
      result.sigmas.push_back(sigma.get<double>());
    }
    if (!sigmas->is_array() || sigmas->empty() || result.sigmas.size() != sigmas->size()) {
      throw bad("sigmas", *sigmas, "a list of numbers above 0 to 1");
    }
    return result;
  }

  // Absent in pictures without any.
  std::vector<LoraRecord> loras() const {
    std::vector<LoraRecord> result;
    const auto found = object_.find("loras");
    if (found == object_.end()) return result;
    if (!found->is_array()) throw bad("loras", *found, "a list");
    for (const json& entry : *found) {
      if (!entry.is_object()) throw bad("loras", *found, "a list of objects");
      const Fields fields(entry, file_);
      result.push_back({fields.text("path"), fields.optional_number("strength").value_or(1.0),
                        fields.text("hash")});
    }
    return result;
  }

 private:
  // Nothing where the key is absent.
  std::optional<Fields> object(const char* key) const {
    const auto found = object_.find(key);
    if (found == object_.end()) return std::nullopt;
    if (!found->is_object()) throw bad(key, *found, "an object");
    return Fields(*found, file_);
  }

  // Of the object under `key`.
  double strength_in(const char* key, const Fields& fields) const {
    const double strength = fields.optional_number("strength").value_or(0);
    if (strength > 0 && strength <= 1) return strength;
    throw bad(key, fields.object_, "an object with a strength above 0 to 1");
  }

  Role role() const {
    const auto name = text("role");
    for (const auto& [role, known] : kRoles) {
      if (name == known) return role;
    }
    throw bad("role", at("role"), "reference, fill or control");
  }

  const json& at(const char* key) const {
    const auto found = object_.find(key);
    if (found == object_.end()) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{}: its steadyflux metadata lack '{}'", file_, key));
    }
    return *found;
  }

  Error bad(const char* key, const json& value, const std::string& expected) const {
    const std::string found = value.dump(-1, ' ', false, json::error_handler_t::replace);
    return Error(ErrorKind::kBadInput, fmt::format("{}: '{}' in its steadyflux metadata is {}, "
                                                   "expected {}",
                                                   file_, key, printable(found), expected));
  }

  const json& object_;
  const std::string& file_;
};

// A1111 puts values that hold its separators into JSON quotes.
std::string a1111_value(const std::string& value) {
  if (value.find_first_of(",:\n") == std::string::npos) return value;
  return json(value).dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace

std::string role_name(ConditionImage::Role role) {
  for (const auto& [known, name] : kRoles) {
    if (known == role) return name;
  }
  throw Error(ErrorKind::kInternal, "a picture without a role");
}

ordered_json sampling_json(const Sampling& sampling) {
  const Sampling usual;
  ordered_json object = ordered_json::object();
  if (sampling.scheduler != usual.scheduler) object["scheduler"] = sampling.scheduler;
  if (sampling.compat != usual.compat) object["compat"] = sampling.compat;
  if (!sampling.sigmas.empty()) object["sigmas"] = sampling.sigmas;
  if (sampling.shift) object["shift"] = *sampling.shift;
  if (sampling.cache_threshold > 0) object["cache_threshold"] = sampling.cache_threshold;
  return object;
}

std::string to_json(const PictureMetadata& metadata) {
  ordered_json object;
  object["format"] = kFormat;
  object["prompt"] = metadata.prompt;
  if (!metadata.prompt_2.empty()) object["prompt_2"] = metadata.prompt_2;
  if (const auto& negative = metadata.negative) {
    object["negative_prompt"] = negative->prompt;
    if (!negative->prompt_2.empty()) object["negative_prompt_2"] = negative->prompt_2;
    object["true_cfg_scale"] = negative->true_cfg_scale;
  }
  object["width"] = metadata.width;
  object["height"] = metadata.height;
  object["num_inference_steps"] = metadata.num_inference_steps;
  object.update(sampling_json(metadata.sampling));
  if (metadata.guidance_scale) object["guidance_scale"] = *metadata.guidance_scale;
  object["seed"] = metadata.seed;
  object["max_sequence_length"] = metadata.max_sequence_length;
  object["model"] = metadata.model;
  object["model_path"] = metadata.model_path;
  for (const auto& [name, path] : metadata.model_parts) object["model_parts"][name] = path;
  object["model_hash"] = metadata.model_hash;
  for (const auto& lora : metadata.loras) {
    object["loras"].push_back(
        {{"path", lora.path}, {"strength", lora.strength}, {"hash", lora.hash}});
  }
  if (const auto& init = metadata.init_image) {
    auto& record = object["init_image"];
    record = {{"image", init->image}, {"image_hash", init->image_hash}};
    if (!init->mask.empty()) record["mask"] = init->mask, record["mask_hash"] = init->mask_hash;
    record["strength"] = init->strength;
  }
  if (const auto& condition = metadata.condition) {
    auto& record = object["condition"];
    record = {{"role", role_name(condition->role)},
              {"image", condition->image},
              {"image_hash", condition->image_hash}};
    if (condition->role == Role::kFill) {
      record["mask"] = condition->mask;
      record["mask_hash"] = condition->mask_hash;
    }
    if (condition->role == Role::kReference) {
      record["width"] = condition->width;
      record["height"] = condition->height;
    }
  }
  if (const auto& redux = metadata.redux) {
    auto& record = object["redux"];
    record = {{"model_hash", redux->model_hash}, {"prompt", redux->has_prompt}};
    for (const auto& image : redux->images) {
      record["images"].push_back(
          {{"image", image.image}, {"hash", image.hash}, {"scale", image.scale}});
    }
  }
  if (const auto& stages = metadata.progressive) {
    object["progressive"] = {{"base", stages->base},
                             {"strength", stages->strength},
                             {"goal_width", stages->goal_width},
                             {"goal_height", stages->goal_height}};
  }
  if (metadata.tile > 0) object["tile"] = metadata.tile;
  object["dtype"] = metadata.dtype;
  if (metadata.compute != "auto") object["compute"] = metadata.compute;
  object["device"] = metadata.device;
  object["num_threads"] = metadata.num_threads;
  object["steadyflux_version"] = metadata.steadyflux_version;
  object["libtorch_version"] = metadata.libtorch_version;
  object["cpu_capability"] = metadata.cpu_capability;
  return object.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

PictureMetadata metadata_from_json(const std::string& text, const std::string& file) {
  const json object = parse_json(text, file);
  if (!object.is_object()) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: its steadyflux metadata are {}, expected an object", file,
                            object.type_name()));
  }
  const Fields fields(object, file);
  const std::int64_t format = fields.integer("format", 1, kMaxCount);
  if (format != kFormat) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: its steadyflux metadata have format {}, this program knows {}; a "
                            "newer steadyflux reads them",
                            file, format, kFormat));
  }
  PictureMetadata metadata;
  metadata.prompt = fields.text("prompt");
  metadata.prompt_2 = fields.optional_text("prompt_2");
  metadata.negative = fields.negative();
  metadata.width = fields.integer("width", 1, kMaxSide);
  metadata.height = fields.integer("height", 1, kMaxSide);
  metadata.num_inference_steps = fields.integer("num_inference_steps", 1, kMaxCount);
  metadata.sampling = fields.sampling();
  metadata.guidance_scale = fields.optional_number("guidance_scale");
  metadata.seed = fields.unsigned_integer("seed");
  metadata.max_sequence_length = fields.integer("max_sequence_length", 1, 512);
  metadata.model = fields.text("model");
  metadata.model_path = fields.text("model_path");
  metadata.model_parts = fields.texts("model_parts");
  metadata.model_hash = fields.text("model_hash");
  metadata.loras = fields.loras();
  metadata.init_image = fields.init_image();
  metadata.condition = fields.condition();
  metadata.redux = fields.redux();
  metadata.progressive = fields.progressive();
  if (object.contains("tile")) metadata.tile = fields.integer("tile", 1, kMaxSide);
  metadata.dtype = fields.text("dtype");
  if (object.contains("compute")) metadata.compute = fields.text("compute");
  metadata.device = fields.text("device");
  metadata.num_threads = fields.integer("num_threads", 1, kMaxCount);
  metadata.steadyflux_version = fields.text("steadyflux_version");
  metadata.libtorch_version = fields.text("libtorch_version");
  metadata.cpu_capability = fields.text("cpu_capability");
  return metadata;
}

namespace {

// As A1111 and Forge name them.
std::string a1111_sampler(const Sampling& sampling) {
  const auto& name = sampling.scheduler;
  std::string text = fmt::format("Sampler: {}, ", name == "euler"      ? "Euler"
                                                  : name == "heun"     ? "Heun"
                                                  : name == "dpmpp_2m" ? "DPM++ 2M"
                                                                       : name);
  if (sampling.sigmas.empty()) text += "Schedule type: Simple, ";
  if (sampling.shift) text += fmt::format("Shift: {}, ", *sampling.shift);
  if (sampling.cache_threshold > 0) {
    text += fmt::format("First block cache: {}, ", sampling.cache_threshold);
  }
  return text;
}

}  // namespace

std::string a1111_parameters(const PictureMetadata& metadata) {
  const auto& negative = metadata.negative;
  std::string text = metadata.prompt;
  if (negative && !negative->prompt.empty()) {
    text += fmt::format("\nNegative prompt: {}", negative->prompt);
  }
  text += fmt::format("\nSteps: {}, {}CFG scale: {}, ", metadata.num_inference_steps,
                      a1111_sampler(metadata.sampling), negative ? negative->true_cfg_scale : 1.0);
  if (metadata.guidance_scale) {
    text += fmt::format("Distilled CFG Scale: {}, ", *metadata.guidance_scale);
  }
  text += fmt::format("Seed: {}, Size: {}x{}, Model: {}, ", metadata.seed, metadata.width,
                      metadata.height, a1111_value(metadata.model));
  if (metadata.init_image) {
    text += fmt::format("Denoising strength: {}, ", metadata.init_image->strength);
  }
  if (metadata.progressive) {
    text += fmt::format("Progressive base: {}, Denoising strength: {}, ",
                        metadata.progressive->base, metadata.progressive->strength);
  }
  if (metadata.tile > 0) text += fmt::format("Tile: {}, ", metadata.tile);
  if (!metadata.prompt_2.empty()) {
    text += fmt::format("Prompt 2: {}, ", a1111_value(metadata.prompt_2));
  }
  if (negative && !negative->prompt_2.empty()) {
    text += fmt::format("Negative prompt 2: {}, ", a1111_value(negative->prompt_2));
  }
  for (const auto& lora : metadata.loras) {
    const auto name = std::filesystem::path(lora.path).stem().string();
    text += fmt::format("Lora: {}, ", a1111_value(fmt::format("{}:{}", name, lora.strength)));
  }
  text += fmt::format("Version: steadyflux {}", metadata.steadyflux_version);
  std::replace(text.begin(), text.end(), '\0', ' ');  // PNG text must not hold zero bytes
  return text;
}

}  // namespace steadyflux
