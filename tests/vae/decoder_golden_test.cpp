// The VAE decoder against diffusers on the tiny pipelines of tests/goldens.
#include <c10/core/InferenceMode.h>

#include "config/model_config.h"
#include "golden_file.h"
#include "vae/autoencoder_kl.h"

namespace steadyflux {
namespace {

using testing::Goldens;
using testing::kRuns;

class DecoderGolden : public ::testing::TestWithParam<const char*> {
 protected:
  const c10::InferenceMode inference_mode_;
  const Goldens goldens_{GetParam()};
};

// Packed latents [1, h w, 64] -> [1, 16, 2h, 2w], written out once more so that this test does not
// lean on the pipeline's own unpack_latents.
at::Tensor unpack(const at::Tensor& packed, std::int64_t height, std::int64_t width) {
  return packed.view({1, height / 2, width / 2, -1, 2, 2})
      .permute({0, 3, 1, 4, 2, 5})
      .reshape({1, packed.size(2) / 4, height, width});
}

AutoencoderKlDecoder load_decoder(const Goldens& goldens, at::ScalarType dtype) {
  AutoencoderKlDecoder model(read_autoencoder_kl_config(goldens.model() / "vae/config.json"));
  LoadOptions options;
  options.dtype = dtype;
  options.ignored_prefixes = {"encoder."};
  load_slots(Checkpoint::open(goldens.model() / "vae"), model.slots(), options);
  return model;
}

double rms_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).square().mean().sqrt().item<double>();
}

TEST_P(DecoderGolden, Decoded) {
  for (const auto& run : kRuns) {
    const auto model = load_decoder(goldens_, run.dtype);
    const auto steps = goldens_.tensor(run.name + ".timesteps").size(0);
    const auto expected = goldens_.tensor(run.name + ".decoded");
    const auto latents = unpack(goldens_.tensor(run.name + ".latents." + std::to_string(steps - 1)),
                                expected.size(2) / 8, expected.size(3) / 8);
    std::int64_t stages = 0;
    const auto decoded = model.decode(latents, {}, [&](std::int64_t done) { stages = done; });
    EXPECT_EQ(stages, model.num_stages());
    // Taps of the upsamplers' convolutions are added up before they are rounded to bf16, so what is
    // rounded is not the same as in diffusers, and a value may be as far from its as that is from
    // fp32 (golden_file.h). Which of the two is closer to fp32 is chance.
    const bool rounded = run.dtype != at::kFloat;
    testing::expect_close(run.name + ".decoded", decoded, expected,
                          rounded ? 6.0 / 256 : run.tolerance);
    if (rounded) {
      const auto exact = load_decoder(goldens_, at::kFloat).decode(latents.to(at::kFloat));
      EXPECT_LE(rms_difference(decoded, exact), 1.1 * rms_difference(expected, exact));
    }

    // From diffusers' own floats the bytes must be equal, not close.
    const auto pixels = goldens_.tensor(run.name + ".pixels");
    EXPECT_TRUE(at::equal(to_rgb8(expected).squeeze(0), pixels)) << run.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Goldens, DecoderGolden, ::testing::Values("a", "b"));

}  // namespace
}  // namespace steadyflux
