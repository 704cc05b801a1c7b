#include "pipeline/phase_weights.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <limits>

#include "image_encoder/redux_image_encoder.h"
#include "image_encoder/siglip_vision_model.h"
#include "steadyflux/error.h"
#include "text_encoder/clip_text_model.h"
#include "text_encoder/t5_encoder.h"
#include "transformer/flux_transformer.h"
#include "vae/autoencoder_kl.h"

namespace steadyflux {
namespace {

using Paths = FluxModel::Paths;

template <typename Model>
void check_component(const FluxModel& files, Model model, const WeightsSource& source) {
  LoadOptions options;
  options.ignored_prefixes = source.ignored_prefixes;
  check_slots(source.open(files), model.slots(), options);
}

}  // namespace

void throw_if_interrupted(Observer& observer) {
  if (const int signal = observer.interrupt_signal()) throw Interrupted(signal);
}

WeightsSource clip_source() {
  return {"text_encoder", Component::kTextEncoder, &Paths::text_encoder};
}
WeightsSource t5_source() {
  return {"text_encoder_2", Component::kTextEncoder2, &Paths::text_encoder_2};
}
WeightsSource image_encoder_source() {
  return {"image_encoder", Component::kImageEncoder, &Paths::image_encoder};
}
WeightsSource image_embedder_source() {
  return {"image_embedder", Component::kImageEmbedder, &Paths::image_embedder};
}
WeightsSource transformer_source() {
  return {"transformer", Component::kTransformer, &Paths::transformer};
}
WeightsSource vae_source() {
  return {"vae", Component::kVae, &Paths::vae, {"encoder.", "quant_conv."}};
}
WeightsSource vae_encoder_source() {
  return {"vae", Component::kVae, &Paths::vae, {"decoder.", "post_quant_conv."}};
}

LoadOptions load_options(const PhaseContext& context, Component component) {
  LoadOptions options;
  if (context.loras != nullptr) options.loras = context.loras->find(component);
  options.dtype = context.dtype;
  options.device = context.device;
  options.complete = false;
  options.progress = [&](std::int64_t, std::int64_t) { throw_if_interrupted(context.observer); };
  return options;
}

const WeightsPlan& weights_plan(const Plan& plan, const std::string& phase,
                                const std::string& component) {
  for (const auto& weights : plan.phase(phase).weights) {
    if (weights.component == component) return weights;
  }
  throw Error(ErrorKind::kInternal, "the plan has no weights for " + component);
}

std::unique_ptr<StreamedWeights> open_weights(const PhaseContext& context,
                                              const WeightsSource& source,
                                              const std::vector<TensorSlot>& fixed,
                                              const std::vector<WeightUnit>& units,
                                              const WeightsPlan& plan) {
  const LoadTimer timer{context.load_seconds};
  const auto checkpoint = source.open(context.model);
  auto options = load_options(context, source.component);
  options.copy = !plan.mapped;
  load_slots(checkpoint, fixed, options);
  return std::make_unique<StreamedWeights>(units, checkpoint, options, plan);
}

std::unique_ptr<ReadAhead> read_ahead_while_encoding(const FluxModel& model, const Plan& plan) {
  const auto& encode = plan.phase("encode");
  std::vector<ReadAhead::Source> sources;
  const auto add = [&](const PhasePlan& phase, const WeightsSource& source, std::int64_t most) {
    for (const auto& weights : phase.weights) {
      if (weights.component != source.name || weights.count(UnitPlace::kDisk) > 0) continue;
      sources.push_back({source.open(model), most});
      return true;
    }
    return false;
  };
  constexpr auto kAll = std::numeric_limits<std::int64_t>::max();
  if (!add(encode, t5_source(), kAll)) return nullptr;
  add(plan.phase("denoise"), transformer_source(), plan.budget.ram - encode.ram_peak_bytes);
  return std::make_unique<ReadAhead>(sources);
}

void expect_finite(const PhaseContext& context, const at::Tensor& values,
                   const WeightsSource& source) {
  if (at::isfinite(values).all().item<bool>()) return;
  const bool fp16 = context.dtype == at::kHalf;
  const bool has_loras =
      context.loras != nullptr && context.loras->find(source.component) != nullptr;
  throw Error(ErrorKind::kBadInput,
              fmt::format("{}: computes values that are not finite numbers; {}",
                          source.path_in(context.model).string(),
                          fp16 ? "fp16 may be too narrow for this model: try --dtype bf16 or fp32"
                          : has_loras ? "a LoRA may be damaged: try without --lora"
                                      : "its weights are damaged, fetch them again"));
}

void check_encoders(const FluxModel& model) {
  check_component(model, ClipTextModel(model.text_encoder), clip_source());
  check_component(model, T5Encoder(model.text_encoder_2), t5_source());
}

void check_redux(const FluxModel& model) {
  const auto& redux = model.redux.value();
  check_component(model, SiglipVisionModel(redux.image_encoder), image_encoder_source());
  check_component(model, ReduxImageEncoder(redux.image_embedder), image_embedder_source());
}

void check_transformer_and_vae(const FluxModel& model) {
  check_component(model, FluxTransformer(model.transformer), transformer_source());
  check_component(model, AutoencoderKlDecoder(model.vae), vae_source());
}

void check_vae_encoder(const FluxModel& model) {
  check_component(model, AutoencoderKlEncoder(model.vae), vae_encoder_source());
}

}  // namespace steadyflux
