// Decoding and encoding in bands on a device that is not the CPU: the same bits however the picture
// is cut and wherever it is parked, and the memory that was foretold from the configuration alone.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <iostream>

#include "memory/vae_footprint.h"
#include "nn/load.h"
#include "pipeline/device.h"
#include "simulated_device/simulated_device.h"
#include "vae/autoencoder_kl.h"

namespace steadyflux {
namespace {

using testing::device_bytes;
using testing::simulated_device;

constexpr std::int64_t kWhole = std::int64_t{1} << 40;

// FLUX's decoder with a sixteenth of its channels.
AutoencoderKlConfig narrow_config() {
  AutoencoderKlConfig config;
  config.block_out_channels = {8, 16, 32, 32};
  config.norm_num_groups = 4;
  return config;
}

void fill_randomly(const std::vector<TensorSlot>& slots, const at::TensorOptions& options) {
  const auto generator = at::detail::createCPUGenerator(3);
  for (const auto& slot : slots) {
    auto values = at::randn(slot.shape, generator) * 0.3;
    if (slot.shape.size() > 1) values /= std::sqrt(static_cast<double>(values[0].numel())) * 0.3;
    *slot.tensor = values.to(options.dtype().toScalarType()).to(options.device());
  }
}

class VaeBandsOnDevice : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  VaeBandsOnDevice() {
    at::set_num_threads(1);  // many small operations: threads would be in the way
    fill_randomly(decoder_.slots(), options_);
    fill_randomly(encoder_.slots(), options_);
  }
  ~VaeBandsOnDevice() override { at::set_num_threads(threads_); }

  std::int64_t element_size() const {
    return static_cast<std::int64_t>(c10::elementSize(GetParam()));
  }
  at::Tensor latents(std::int64_t height, std::int64_t width) const {
    return at::randn({1, decoder_.config.latent_channels, height, width},
                     at::detail::createCPUGenerator(4))
        .to(GetParam())
        .to(simulated_device());
  }

  // On the CPU, -1..1.
  at::Tensor picture(std::int64_t height, std::int64_t width) const {
    return at::rand({1, 3, height, width}, at::detail::createCPUGenerator(5))
        .mul(2)
        .sub(1)
        .to(GetParam());
  }

  // For all kinds of bands: run(mode) takes what foretell says. 2 %: left out of the prediction are
  // the norms' factors and sums, a few values per channel.
  template <typename Foretell, typename Run>
  void expect_foretold(std::int64_t height, std::int64_t width, Foretell foretell, Run run) const {
    for (const bool park_on_host : {false, true}) {
      for (const std::int64_t band_bytes :
           {vae_smallest_band_bytes(narrow_config(), element_size()), std::int64_t{2} << 20,
            kWhole}) {
        const auto before = device_bytes();
        reset_device_peak(simulated_device());
        run(BandMode{.band_bytes = band_bytes, .park_on_host = park_on_host});
        const auto measured = device_peak(simulated_device()).peak_allocated - before;
        const VaeFootprint foretold =
            foretell(narrow_config(), height, width, element_size(), band_bytes,
                     /*has_device=*/true, park_on_host);
        std::cout << height << " x " << width << ", bands of " << band_bytes << ", parked "
                  << park_on_host << ": " << measured << " bytes, foretold " << foretold.device_peak
                  << ", " << foretold.band_rows << " rows\n";
        EXPECT_NEAR(static_cast<double>(foretold.device_peak), static_cast<double>(measured),
                    0.02 * static_cast<double>(measured));
        EXPECT_EQ(device_bytes(), before);
      }
    }
  }

  const int threads_ = at::get_num_threads();
  const c10::InferenceMode inference_mode_;
  const at::TensorOptions options_ =
      at::TensorOptions().dtype(GetParam()).device(simulated_device());
  AutoencoderKlDecoder decoder_{narrow_config()};
  AutoencoderKlEncoder encoder_{narrow_config()};
};

// So wide that the last two levels are cut into two and eight units.
TEST_P(VaeBandsOnDevice, GiveTheSameBits) {
  const auto input = latents(2, 1024);
  const auto expected = decoder_.decode(input, {.band_bytes = kWhole}).cpu();
  ASSERT_TRUE(at::isfinite(expected).all().item<bool>());
  for (const bool park_on_host : {false, true}) {
    for (const std::int64_t band_bytes : {std::int64_t{1}, std::int64_t{2} << 20}) {
      const auto found =
          decoder_.decode(input, {.band_bytes = band_bytes, .park_on_host = park_on_host});
      EXPECT_EQ(found.device().is_cpu(), park_on_host);
      EXPECT_TRUE(at::equal(found.cpu(), expected)) << band_bytes << " " << park_on_host;
    }
  }
}

TEST_P(VaeBandsOnDevice, TakeWhatWasForetold) {
  for (const auto& [height, width] : {std::pair{40, 40}, {2, 1024}}) {
    const auto input = latents(height, width);
    expect_foretold(
        height, width, [](const auto&... of) { return vae_decode_footprint(of...); },
        [&](const BandMode& mode) { decoder_.decode(input, mode); });
  }
}

TEST_P(VaeBandsOnDevice, EncodeToTheSameBits) {
  const auto input = picture(16, 4096).to(simulated_device());
  const auto expected = encoder_.encode(input, {.band_bytes = kWhole}).cpu();
  ASSERT_TRUE(at::isfinite(expected).all().item<bool>());
  for (const bool park_on_host : {false, true}) {
    for (const std::int64_t band_bytes : {std::int64_t{1}, std::int64_t{2} << 20}) {
      const auto found =
          encoder_.encode(input, {.band_bytes = band_bytes, .park_on_host = park_on_host});
      EXPECT_TRUE(at::equal(found.cpu(), expected)) << band_bytes << " " << park_on_host;
    }
  }
}

TEST_P(VaeBandsOnDevice, EncodingTakesWhatWasForetold) {
  for (const auto& [height, width] : {std::pair{320, 320}, {16, 4096}}) {
    expect_foretold(
        height, width, [](const auto&... of) { return vae_encode_footprint(of...); },
        [&, h = height, w = width](const BandMode& mode) {
          encoder_.encode(picture(h, w).to(simulated_device()), mode);
        });
  }
}

TEST_P(VaeBandsOnDevice, WeightsAreWhatWasForetold) {
  EXPECT_EQ(vae_decoder_weight_bytes(decoder_.config, element_size()),
            slot_bytes(decoder_.slots(), GetParam()));
  EXPECT_EQ(vae_encoder_weight_bytes(encoder_.config, element_size()),
            slot_bytes(encoder_.slots(), GetParam()));
  AutoencoderKlConfig other;  // FLUX's, but for these
  other.use_post_quant_conv = true;
  other.mid_block_add_attention = false;
  other.layers_per_block = 1;
  EXPECT_EQ(vae_decoder_weight_bytes(other, element_size()),
            slot_bytes(AutoencoderKlDecoder(other).slots(), GetParam()));
  other.use_quant_conv = true;
  EXPECT_EQ(vae_encoder_weight_bytes(other, element_size()),
            slot_bytes(AutoencoderKlEncoder(other).slots(), GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Dtypes, VaeBandsOnDevice, ::testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& param) { return std::string(c10::toString(param.param)); });

}  // namespace
}  // namespace steadyflux
