// The VAE encoder against diffusers (scripts/goldens/vae_encoder_goldens.py).
#include <c10/core/InferenceMode.h>

#include "config/model_config.h"
#include "golden_file.h"
#include "vae/autoencoder_kl.h"

namespace steadyflux {
namespace {

using testing::Goldens;
using testing::kRuns;

class EncoderGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(EncoderGolden, Moments) {
  const c10::InferenceMode inference_mode;
  const auto folder = Goldens(GetParam()).model() / "vae";
  const auto file =
      SafetensorsFile::open(std::filesystem::path(STEADYFLUX_SOURCE_DIR) / "tests/vae/goldens" /
                            (std::string("encoder_") + GetParam() + ".safetensors"));
  const auto tensor = [&](const std::string& name) { return to_tensor(file.tensors.at(name)); };
  for (const auto& run : kRuns) {
    AutoencoderKlEncoder model(read_autoencoder_kl_config(folder / "config.json"));
    LoadOptions options;
    options.dtype = run.dtype;
    options.ignored_prefixes = {"decoder.", "post_quant_conv."};
    load_slots(Checkpoint::open(folder), model.slots(), options);
    testing::expect_close(run.name, model.encode(tensor("picture").to(run.dtype)),
                          tensor(run.name + ".moments"), run.tolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(Goldens, EncoderGolden, ::testing::Values("a", "b"));

}  // namespace
}  // namespace steadyflux
