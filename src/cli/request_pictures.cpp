#include "cli/request_pictures.h"

#include <fmt/format.h>

#include <string>
#include <utility>

#include "cli/condition_image.h"
#include "cli/init_image.h"
#include "cli/option_values.h"

namespace steadyflux::cli {
namespace {

namespace fs = std::filesystem;

using Role = ConditionImage::Role;
using Text = std::optional<std::string>;

class Pictures {
 public:
  Pictures(GenerateJob& job, const Layers& layers)
      : job_(job),
        request_(job.request),
        layers_(layers),
        image_(layers.picture(&Options::image)),
        mask_(layers.picture(&Options::mask)),
        strength_(layers.picture(&Options::strength)),
        reference_(layers.picture(&Options::reference)),
        reference_size_(layers.picture(&Options::reference_size)),
        control_(layers.picture(&Options::control_image)),
        redux_(layers.picture(&Options::redux)),
        redux_image_(layers.picture(&Options::redux_image)) {}

  void apply() {
    request_.init_image.reset();
    request_.condition.reset();
    take_redux();
    refuse_two();
    refuse_to_enlarge();
    // What is enlarged is begun from, whatever the model.
    const bool names_reference =
        is(FluxVariant::kKontext) && image_ && layers_.command() != Command::kUpscale;
    if (names_reference) reference_ = std::exchange(image_, std::nullopt);
    if (reference_) {
      refuse_with(names_reference ? "image" : "reference");
      take_reference();
    } else if (control_) {
      refuse_with("control-image");
      fill_size(*control_);
      show(Role::kControl, *control_, {});
    } else if (image_) {
      fill_size(*image_);
      is(FluxVariant::kFill) ? take_fill(*image_, mask_.value_or("")) : take_init(*image_, {});
    } else if (job_.recorded && job_.recorded->init_image) {
      take_init(job_.recorded->init_image->image, *job_.recorded->init_image);
    } else if (job_.recorded && job_.recorded->condition) {
      take_recorded(*job_.recorded->condition);
    } else {
      if (mask_) usage_error("--mask without --image: give the picture that it is of");
      if (strength_ && !request_.progressive) {
        usage_error("--strength without --image: give the picture to begin from");
      }
    }
    // Before the model is known, --image may be a reference.
    const bool may_be = image_ && job_.model.root.empty();
    if (reference_size_ && !may_be && reference_of_request() == nullptr) {
      usage_error("--reference-size without --reference: give the picture that it is of");
    }
  }

 private:
  bool is(FluxVariant variant) const {
    return !job_.model.root.empty() && job_.model.variant() == variant;
  }

  // These stand beside the prompt, whatever else a picture is made from.
  void take_redux() {
    request_.redux_images.clear();
    const auto& recorded = job_.recorded ? job_.recorded->redux : std::nullopt;
    if (redux_image_) {
      request_.redux_images = parse_redux_images(*redux_image_);
    } else if (recorded) {
      for (const auto& image : recorded->images) {
        request_.redux_images.push_back(make_redux_image(image.image, image.scale));
      }
    }
    const bool any = !request_.redux_images.empty();
    if (any && !redux_ && !recorded) {
      usage_error(
          "--redux-image without --redux: name FLUX.1-Redux, for example --redux "
          "black-forest-labs/FLUX.1-Redux-dev");
    }
    const auto command = layers_.command();
    const bool needs_images = command != Command::kBatch && command != Command::kPlan;
    if (redux_ && !any && needs_images) {
      usage_error("--redux without --redux-image: give a picture to take up");
    }
    if (layers_.picture(&Options::image_encoder) && !redux_ && !recorded) {
      usage_error("--image-encoder without --redux: it is a part of FLUX.1-Redux");
    }
  }

  const ConditionImage* reference_of_request() const {
    const auto* condition = request_.condition.get();
    return condition != nullptr && condition->role == Role::kReference ? condition : nullptr;
  }

  void refuse_two() const {
    const char* first = nullptr;
    for (const auto& [name, text] : {std::pair<const char*, const Text&>{"image", image_},
                                     {"reference", reference_},
                                     {"control-image", control_}}) {
      if (!text) continue;
      if (first != nullptr) usage_error(fmt::format("--{} with --{}: give one", first, name));
      first = name;
    }
  }

  void refuse_to_enlarge() const {
    if (layers_.command() != Command::kUpscale) return;
    if (!is(FluxVariant::kFill) && !is(FluxVariant::kControl)) return;
    usage_error(
        fmt::format("{} is a {}, which begins from noise and enlarges no picture; name another "
                    "model with -m",
                    job_.model.name, to_string(job_.model.variant())));
  }

  // Options that say what becomes of a picture, with one that is only looked at.
  void refuse_with(const char* name) const {
    if (mask_) {
      usage_error(
          fmt::format("--mask with --{}: the model only looks at it; leave --mask out", name));
    }
    if (strength_) {
      usage_error(fmt::format(
          "--strength with --{}: the model only looks at it, and begins from noise; leave "
          "--strength out",
          name));
    }
  }

  // A size that a model or a record would give is not meant for a picture that is given now.
  std::pair<std::int64_t, std::int64_t> given_sides() const {
    const bool sized = layers_.picture(&Options::size) || layers_.picture(&Options::aspect);
    return {layers_.picture(&Options::width) || sized ? request_.width : 0,
            layers_.picture(&Options::height) || sized ? request_.height : 0};
  }

  void fill_size(const fs::path& picture) {
    auto [width, height] = given_sides();
    fill_size_from(picture, width, height);
    request_.width = width;
    request_.height = height;
  }

  void show(Role role, const fs::path& image, const fs::path& mask) {
    request_.condition = make_condition_image(role, image, mask, request_.width, request_.height);
  }

  void take_reference() {
    const auto sides = reference_size(*reference_, reference_size_.value_or("preferred"));
    auto [width, height] = given_sides();
    fill_sides_from(sides.width, sides.height, width, height);
    request_.width = width;
    request_.height = height;
    request_.condition =
        make_condition_image(Role::kReference, *reference_, {}, sides.width, sides.height);
  }

  void take_fill(const fs::path& image, const fs::path& mask) {
    if (strength_) {
      usage_error("--strength with FLUX.1-Fill: it begins from noise; leave --strength out");
    }
    show(Role::kFill, image, mask);
  }

  void take_init(const fs::path& image, const std::optional<InitImageRecord>& recorded) {
    const fs::path mask = mask_ ? *mask_ : recorded ? recorded->mask : "";
    const double strength = strength_  ? parse_strength(*strength_)
                            : recorded ? recorded->strength
                                       : kDefaultStrength;
    request_.init_image = make_init_image(image, mask, strength, request_.width, request_.height);
  }

  void take_recorded(const ConditionRecord& recorded) {
    switch (recorded.role) {
      case Role::kFill:
        take_fill(recorded.image, mask_.value_or(recorded.mask));
        break;
      case Role::kControl:
        refuse_with("control-image");
        show(Role::kControl, recorded.image, {});
        break;
      case Role::kReference: {
        refuse_with("reference");
        const auto sides = reference_size_ ? reference_size(recorded.image, *reference_size_)
                                           : PictureSides{recorded.width, recorded.height};
        request_.condition =
            make_condition_image(Role::kReference, recorded.image, {}, sides.width, sides.height);
        break;
      }
    }
  }

  GenerateJob& job_;
  Request& request_;
  const Layers& layers_;
  Text image_, mask_, strength_, reference_, reference_size_, control_, redux_, redux_image_;
};

}  // namespace

void apply_pictures(GenerateJob& job, const Layers& layers) { Pictures(job, layers).apply(); }

void assume_pictures(GenerateJob& job) {
  auto& request = job.request;
  if (job.model.redux && request.redux_images.empty()) {
    request.redux_images.push_back({.image = "picture"});
  }
  if (request.init_image || request.condition) return;
  const auto variant = job.model.variant();
  if (variant != FluxVariant::kFill && variant != FluxVariant::kControl) return;
  auto assumed = std::make_shared<ConditionImage>();
  assumed->role = variant == FluxVariant::kFill ? Role::kFill : Role::kControl;
  assumed->image = "picture";
  if (variant == FluxVariant::kFill) assumed->mask = "mask";
  assumed->width = request.width;
  assumed->height = request.height;
  request.condition = std::move(assumed);
}

}  // namespace steadyflux::cli
