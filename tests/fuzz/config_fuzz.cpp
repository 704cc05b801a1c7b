// A model folder with one damaged configuration file. The first byte picks the file that the rest
// of the input becomes; the others are good. A folder that is taken must hold what the modules
// behind rely on, and its schedule must lead from noise to the picture.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>

#include "config/model_config.h"
#include "scheduler/flow_match_euler.h"
#include "steadyflux/error.h"
#include "temp_folder.h"

namespace {

struct File {
  const char* name;
  const char* content;
};

constexpr File kFiles[] = {
    {"model_index.json", R"({"_class_name":"FluxPipeline"})"},
    {"text_encoder/config.json", R"({"hidden_size":32,"num_attention_heads":4})"},
    {"text_encoder_2/config.json", R"({"d_model":48,"feed_forward_proj":"gated-gelu"})"},
    {"transformer/config.json",
     R"({"_class_name":"FluxTransformer2DModel","in_channels":16,"attention_head_dim":16,)"
     R"("axes_dims_rope":[4,4,8],"joint_attention_dim":48,"pooled_projection_dim":32})"},
    {"vae/config.json", R"({"_class_name":"AutoencoderKL"})"},
    {"scheduler/scheduler_config.json", R"({"_class_name":"FlowMatchEulerDiscreteScheduler"})"},
    {"steadyflux.json", "{}"},
};

void require(bool condition) {
  if (!condition) __builtin_trap();
}

void check(const steadyflux::FluxModel& model) {
  require(model.text_encoder.hidden_size % model.text_encoder.num_attention_heads == 0);
  require(model.text_encoder.hidden_size == model.transformer.pooled_projection_dim);
  require(model.text_encoder_2.d_model == model.transformer.joint_attention_dim);
  require(model.transformer.out_channels == 4 * model.vae.latent_channels);
  require(model.transformer.condition_channels() >= 0);
  require(model.transformer.axes_dims_rope.size() == 3);
  require(model.transformer.num_layers + model.transformer.num_single_layers > 0);
  require(model.transformer.inner_dim() > 0);
  require(model.vae.scale_factor() >= 1 && model.vae.scale_factor() <= 128);
  for (const auto channels : model.vae.block_out_channels) {
    require(channels % model.vae.norm_num_groups == 0);
  }
  require(model.defaults.width % 16 == 0 && model.defaults.height % 16 == 0);
  require(!model.name.empty());
}

void check_schedule(const steadyflux::FlowMatchEulerConfig& config) {
  for (const std::int64_t steps : {1, 4}) {
    try {
      const auto schedule = steadyflux::make_schedule(config, steps, 4096);
      require(schedule.sigmas.size() == static_cast<std::size_t>(steps) + 1);
      require(schedule.timesteps.size() == static_cast<std::size_t>(steps));
      for (const float sigma : schedule.sigmas) require(std::isfinite(sigma) && sigma >= 0);
      require(schedule.sigmas.back() == 0);
    } catch (const steadyflux::Error&) {
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const TempFolder folder;
  if (size == 0) return 0;
  const std::size_t damaged = data[0] % std::size(kFiles);
  for (std::size_t i = 0; i < std::size(kFiles); ++i) {
    folder.write(kFiles[i].name,
                 i == damaged ? std::string(reinterpret_cast<const char*>(data) + 1, size - 1)
                              : kFiles[i].content);
  }
  try {
    const auto model = steadyflux::FluxModel::open(folder.path());
    check(model);
    check_schedule(model.scheduler);
  } catch (const steadyflux::Error&) {
  }
  return 0;
}
