#include "checkpoints/config_metadata.h"

namespace steadyflux {
std::string config_metadata_key(Component component) {
  return "steadyflux.config." + to_string(component);
}

std::optional<std::string> config_in_metadata(const nlohmann::json& metadata, Component component) {
  if (!metadata.is_object()) return std::nullopt;
  const auto it = metadata.find(config_metadata_key(component));
  if (it == metadata.end() || !it->is_string()) return std::nullopt;
  return it->get<std::string>();
}

}  // namespace steadyflux
