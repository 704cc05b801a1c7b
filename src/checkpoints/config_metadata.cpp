#include "checkpoints/config_metadata.h"

namespace steadyflux {
namespace {

const char* folder_name(Component component) {
  switch (component) {
    case Component::kTransformer:
      return "transformer";
    case Component::kTextEncoder:
      return "text_encoder";
    case Component::kTextEncoder2:
      return "text_encoder_2";
    case Component::kVae:
      return "vae";
  }
  return "";
}

}  // namespace

std::string config_metadata_key(Component component) {
  return std::string("steadyflux.config.") + folder_name(component);
}

std::optional<std::string> config_in_metadata(const nlohmann::json& metadata, Component component) {
  if (!metadata.is_object()) return std::nullopt;
  const auto it = metadata.find(config_metadata_key(component));
  if (it == metadata.end() || !it->is_string()) return std::nullopt;
  return it->get<std::string>();
}

}  // namespace steadyflux
