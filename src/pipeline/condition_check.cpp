#include "pipeline/condition_check.h"

#include <fmt/format.h>

#include "steadyflux/error.h"

namespace steadyflux {
namespace {

using Role = ConditionImage::Role;

constexpr const char* kNoControl =
    "it takes no --control-image; FLUX.1-Depth, -Canny, or dev with their LoRA do";

[[noreturn]] void refuse(const FluxModel& model, const char* what) {
  throw Error(ErrorKind::kUsage,
              fmt::format("{} is a {}: {}", model.name, to_string(model.variant()), what));
}

void check_role(const FluxModel& model, const Request& request) {
  const auto* condition = request.condition.get();
  const bool has = condition != nullptr;
  switch (model.variant()) {
    case FluxVariant::kFill:
      if (!has || condition->role != Role::kFill || condition->mask.empty()) {
        refuse(model, "give the picture to fill with --image, and where with --mask");
      }
      break;
    case FluxVariant::kControl:
      if (!has || condition->role != Role::kControl) {
        refuse(model, "give its depth map or edges with --control-image");
      }
      break;
    case FluxVariant::kKontext:
    case FluxVariant::kDev:
      if (has && condition->role != Role::kReference) {
        refuse(model, kNoControl);
      }
      break;
    case FluxVariant::kSchnell:
      if (has && condition->role == Role::kReference) {
        refuse(model, "it takes no --reference; FLUX.1-Kontext does");
      }
      if (has) refuse(model, kNoControl);
      break;
  }
  if (!request.init_image) return;
  switch (model.variant()) {
    case FluxVariant::kFill:
      refuse(model, "it fills a picture (--image, --mask), and begins from noise");
    case FluxVariant::kControl:
      refuse(model, "it begins from noise; give no --image beside --control-image");
    case FluxVariant::kKontext:
    case FluxVariant::kDev:
    case FluxVariant::kSchnell:
      break;
  }
  if (has) refuse(model, "give a picture to begin from or a reference, not both");
}

}  // namespace

void check_condition(const FluxModel& model, const Request& request) {
  check_role(model, request);
  const auto* condition = request.condition.get();
  if (condition == nullptr) return;
  if (request.progressive) refuse(model, "it makes no --progressive picture of what it is shown");
  const auto multiple = 2 * model.vae.scale_factor();
  if (condition->role == Role::kReference) {
    if (request.tile != 0) refuse(model, "it takes no --reference with --tile");
    for (const auto side : {condition->width, condition->height}) {
      if (side >= multiple && side % multiple == 0) continue;
      throw Error(
          ErrorKind::kUsage,
          fmt::format("a reference of {} x {} pixels: both sides have to be multiples of {}",
                      condition->width, condition->height, multiple));
    }
    return;
  }
  if (condition->width != request.width || condition->height != request.height) {
    throw Error(
        ErrorKind::kUsage,
        fmt::format("{} x {} pixels of {} for a picture of {} x {}", condition->width,
                    condition->height, condition->image.string(), request.width, request.height));
  }
}

}  // namespace steadyflux
