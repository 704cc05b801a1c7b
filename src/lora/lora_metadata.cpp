#include "lora/lora_metadata.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/json.h"
#include "base/utf8.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

using nlohmann::json;

constexpr const char* kMetadataKey = "lora_adapter_metadata";
constexpr std::string_view kTextModel = "text_model.";
constexpr LoraComponent kComponents[] = {LoraComponent::kTransformer, LoraComponent::kTextEncoder,
                                         LoraComponent::kTextEncoder2};

class ConfigReader {
 public:
  // `where` names the source in messages.
  ConfigReader(const json& object, std::string where) : object_(object), where_(std::move(where)) {}

  // Keys begin with `prefix`: "transformer." or "".
  std::optional<PeftConfig> read(const std::string& prefix) const {
    // "alpha" is that of peft's LoHa and LoKr.
    const json* alpha = find(prefix + "lora_alpha");
    if (alpha == nullptr) alpha = find(prefix + "alpha");
    if (alpha == nullptr) return std::nullopt;
    PeftConfig config;
    config.alpha = number(prefix + "lora_alpha", *alpha);
    if (const json* rslora = find(prefix + "use_rslora")) {
      if (!rslora->is_boolean()) throw fail(prefix + "use_rslora", "true or false", *rslora);
      config.use_rslora = rslora->get<bool>();
    }
    config.alpha_pattern = patterns(prefix + "alpha_pattern");
    const json* type = find(prefix + "peft_type");
    const json* rank = find(prefix + "r");
    if (type != nullptr && *type == "LOKR" && rank != nullptr) {
      config.lokr_rank = number(prefix + "r", *rank);
      config.lokr_rank_pattern = patterns(prefix + "rank_pattern");
    }
    return config;
  }

 private:
  const json* find(const std::string& key) const {
    const auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }

  PeftPattern patterns(const std::string& key) const {
    PeftPattern result;
    const json* object = find(key);
    if (object == nullptr) return result;
    if (!object->is_object()) throw fail(key, "an object", *object);
    for (const auto& [pattern, value] : object->items()) {
      // peft takes regular expressions. What writes these files writes names, whose dots we take
      // for dots.
      if (pattern.empty() || pattern.find_first_of("\\$*+?()[]{}|") != std::string::npos ||
          pattern.find('^', 1) != std::string::npos) {
        throw Error(ErrorKind::kBadInput,
                    fmt::format("{}: {} has the regular expression '{}'; only names of layers are "
                                "supported",
                                where_, key, printable(pattern)));
      }
      std::string name = pattern;
      // Layers of CLIP go by names without it, see LoraTarget.
      const std::size_t at = name[0] == '^' ? 1 : 0;
      if (name.compare(at, kTextModel.size(), kTextModel) == 0) name.erase(at, kTextModel.size());
      result.emplace_back(name, number(key, value));
    }
    return result;
  }

  double number(const std::string& key, const json& value) const {
    if (!value.is_number()) throw fail(key, "a number", value);
    const double result = value.get<double>();
    if (!std::isfinite(result) || result < 0) throw fail(key, "a number from 0 up", value);
    return result;
  }

  Error fail(const std::string& key, const char* expected, const json& found) const {
    return Error(ErrorKind::kBadInput, fmt::format("{}: '{}' is {}, expected {}", where_, key,
                                                   printable(found.dump()), expected));
  }

  const json& object_;
  std::string where_;
};

std::optional<double> find_pattern(const PeftPattern& patterns, const std::string& layer) {
  for (const auto& [pattern, value] : patterns) {
    const bool found = pattern[0] == '^' ? layer == pattern.substr(1)
                                         : layer == pattern || layer.ends_with("." + pattern);
    if (found) return value;
  }
  return std::nullopt;
}

}  // namespace

double PeftConfig::alpha_of(const std::string& layer) const {
  return find_pattern(alpha_pattern, layer).value_or(alpha);
}

double PeftConfig::lokr_rank_of(const std::string& layer) const {
  return find_pattern(lokr_rank_pattern, layer).value_or(lokr_rank);
}

std::map<LoraComponent, PeftConfig> read_peft_configs(
    const std::map<std::string, std::string>& metadata, const std::filesystem::path& path) {
  std::map<LoraComponent, PeftConfig> configs;
  if (const auto it = metadata.find(kMetadataKey); it != metadata.end()) {
    const std::string where = fmt::format("{}: metadata '{}'", path.string(), kMetadataKey);
    const json object = parse_json(it->second, where);
    if (!object.is_object()) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{} is {}, expected an object", where, object.type_name()));
    }
    const ConfigReader reader(object, where);
    for (const LoraComponent component : kComponents) {
      if (auto config = reader.read(to_string(component) + ".")) configs[component] = *config;
    }
    return configs;
  }
  // The pair of files that peft's save_pretrained writes; one model, so one component.
  const auto beside = path.parent_path() / "adapter_config.json";
  std::error_code ignored;
  if (path.filename() == "adapter_model.safetensors" && std::filesystem::exists(beside, ignored)) {
    const json object = read_json_object(beside);
    if (const auto config = ConfigReader(object, beside.string()).read("")) {
      for (const LoraComponent component : kComponents) configs[component] = *config;
    }
  }
  return configs;
}

}  // namespace steadyflux
