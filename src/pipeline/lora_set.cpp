#include "pipeline/lora_set.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "base/utf8.h"
#include "pipeline/control_lora.h"
#include "text_encoder/clip_text_model.h"
#include "text_encoder/t5_encoder.h"
#include "transformer/flux_transformer.h"

namespace steadyflux {
namespace {

using LayerShapes = std::map<std::string, LoraLayerShape>;

LayerShapes shapes_of(const std::vector<TensorSlot>& slots) {
  constexpr std::string_view kWeight = ".weight";
  LayerShapes shapes;
  for (const auto& slot : slots) {
    if (!slot.name.ends_with(kWeight)) continue;
    shapes[slot.name.substr(0, slot.name.size() - kWeight.size())] = {
        slot.shape[0], slot.shape.size() > 1 ? slot.shape[1] : 0};
  }
  return shapes;
}

std::string unmatched_text(const LoraFile& lora) {
  constexpr std::size_t kNamed = 5;
  const auto named = std::min(lora.unmatched.size(), kNamed);
  std::vector<std::string> names;
  for (std::size_t i = 0; i < named; ++i) names.push_back(printable(lora.unmatched[i]));
  return fmt::format("{}: {} of its keys match nothing in this model: {}{}", lora.path.string(),
                     lora.unmatched.size(), fmt::join(names, ", "),
                     lora.unmatched.size() > kNamed ? ", ..." : "");
}

}  // namespace

const LoraLayers* LoraSet::find(Component component) const {
  const LoraLayers* layers = component == Component::kTransformer    ? &transformer
                             : component == Component::kTextEncoder  ? &text_encoder
                             : component == Component::kTextEncoder2 ? &text_encoder_2
                                                                     : nullptr;
  return layers != nullptr && !layers->empty() ? layers : nullptr;
}

std::shared_ptr<const LoraSet> open_loras(const FluxModel& model,
                                          const std::vector<LoraUse>& uses) {
  auto set = std::make_shared<LoraSet>();
  set->model = with_loras(model, uses);
  if (uses.empty()) return set;
  const auto& transformer = set->model.transformer;
  std::map<LoraComponent, LayerShapes> shapes = {
      {LoraComponent::kTransformer, shapes_of(FluxTransformer(transformer).slots())},
      {LoraComponent::kTextEncoder, shapes_of(ClipTextModel(model.text_encoder).slots())},
      {LoraComponent::kTextEncoder2, shapes_of(T5Encoder(model.text_encoder_2).slots())}};
  // LoRAs for dev are for Depth, Canny and Fill too.
  shapes[LoraComponent::kTransformer]["x_embedder"].narrow_in = transformer.out_channels;
  for (const auto& use : uses) {
    auto lora = std::make_shared<LoraFile>(read_lora(use.path));
    check_targets(
        *lora,
        [&](LoraComponent component, const std::string& layer) -> std::optional<LoraLayerShape> {
          const auto& layers = shapes.at(component);
          const auto found = layers.find(layer);
          if (found == layers.end()) return std::nullopt;
          return found->second;
        });
    if (!lora->unmatched.empty()) set->warnings.push_back(unmatched_text(*lora));
    set->transformer.add(lora, LoraComponent::kTransformer, use.strength);
    set->text_encoder.add(lora, LoraComponent::kTextEncoder, use.strength);
    set->text_encoder_2.add(lora, LoraComponent::kTextEncoder2, use.strength);
  }
  return set;
}

}  // namespace steadyflux
